"""What a key used, and what became of one request of its: the way to find out after a broken connection."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from appliance.gateway.access import AnyKey, TheBox
from appliance.gateway.errors import BadRequest, Conflict, NotFound
from appliance.usage import summed
from sync.clock import day_in_india
from sync.price import cost, rupees

router = APIRouter(prefix="/v1", tags=["usage"])
DAYS_MAX = 3660


@router.get("/usage")
async def get_usage(box: TheBox, key: AnyKey, days: Annotated[str, Query()] = "30") -> dict[str, Any]:
    """Totals of this key over the last `days` days in India, today included."""
    until = day_in_india(box.clock.wall_ms())
    since = until - timedelta(days=read_days(days) - 1)
    totals = await asyncio.to_thread(box.ledger.totals, since, until)
    own = summed(total for total in totals if total.key_id == key.id)
    return {"key": key.hint, "since": since.isoformat(), "until": until.isoformat(), **own}


@router.get("/usage/requests/{request_id}")
async def get_request(request_id: str, box: TheBox, key: AnyKey) -> dict[str, Any]:
    """The record of a request. 404: nothing was billed for it. 409: it is still running."""
    wanted = read_id(request_id)
    if box.running.find(key.id, wanted) is not None:
        raise Conflict("this request is still running: ask again when it has ended", code="still_running")
    record = box.ledger.find(wanted.bytes)
    if record is None or record.draft.key_id != key.id:
        raise NotFound("no record has this request id: nothing was billed for it", code="not_billed")
    book = box.ledger.price_book(record.draft.price_book)
    assert book is not None  # The ledger keeps the book of every record.
    draft = record.draft
    return {
        "request_id": str(wanted),
        "record": record.name,
        "time": datetime.fromtimestamp(record.wall_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "meter": draft.meter.name.lower(),
        "model": draft.model.hex(),
        "outcome": draft.outcome.name.lower(),
        "cost": rupees(cost(book, draft.meter, draft.units)),
        "units": {unit.name.lower(): quantity for unit, quantity in sorted(draft.units.items())},
    }


@router.post("/requests/{request_id}/cancel", status_code=202)
async def cancel_request(request_id: str, box: TheBox, key: AnyKey) -> dict[str, Any]:
    """End a running call in order: its stream gets its closing event, with the charge for what was handed over."""
    call = box.running.find(key.id, read_id(request_id))
    if call is None:
        raise NotFound("no call with this id is running")
    call.stop.set()
    return {"request_id": str(call.request_id), "cancelling": True}


def read_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest("request_id must be a UUID, as X-Request-Id gave it", "request_id") from None


def read_days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= DAYS_MAX):
        raise BadRequest(f"days must be a whole number from 1 to {DAYS_MAX}", "days")
    return int(text)
