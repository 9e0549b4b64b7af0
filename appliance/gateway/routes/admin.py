"""What the operator of a box may do while it runs; the commands of `nukkad` go through here."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from appliance import packages, status, topups
from appliance.box import Box
from appliance.engine.protocol import EngineDied
from appliance.gateway.access import TheBox, known_name, the_operator
from appliance.gateway.errors import BadRequest, Conflict
from appliance.gateway.routes.usage import read_days
from appliance.gateway.schemas import Name, Strict, documented, read
from appliance.usage import by_key
from sync import enrol
from sync.clock import day_in_india
from sync.price import rupees
from sync.transport import NodeClient
from sync.worker import SyncWorker

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(known_name), Depends(the_operator)])

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NewKey(Strict):
    name: Annotated[str, Field(min_length=1, max_length=64)]


class Enrol(Strict):
    code: Annotated[str, Field(min_length=1, max_length=128)]


class NewTopUp(Strict):
    amount_paise: Annotated[int, Field(ge=100, le=10_000_000)]


class Install(Strict):
    path: Annotated[str, Field(min_length=1, max_length=4096)]


class Activate(Strict):
    name: Name
    digest: Hex


class OneModel(Strict):
    name: Name


class Remove(Strict):
    digest: Hex


@router.get("/status")
async def get_status(box: TheBox) -> dict[str, Any]:
    return await status.describe(box)


@router.get("/usage")
async def get_usage(box: TheBox, days: Annotated[str, Query()] = "30") -> dict[str, Any]:
    """Use and cost of each key over the last `days` days in India, today included."""
    until = day_in_india(box.clock.wall_ms())
    since = until - timedelta(days=read_days(days) - 1)
    shown = by_key(await asyncio.to_thread(box.ledger.totals, since, until), box.keys.all())
    return {"since": since.isoformat(), "until": until.isoformat(), **shown}


@router.get("/keys")
async def list_keys(box: TheBox) -> dict[str, Any]:
    return {"keys": [key.shown() for key in box.keys.all()]}


@router.post("/keys", status_code=201, openapi_extra=documented(NewKey))
async def create_key(request: Request, box: TheBox) -> dict[str, Any]:
    """The only answer that ever holds the secret."""
    asked = await read(request, NewKey)
    key, secret = box.keys.create(asked.name)
    return {**key.shown(), "secret": secret}


@router.delete("/keys/{key_id}")
async def revoke_key(key_id: str, box: TheBox) -> dict[str, Any]:
    if not (key_id.isascii() and key_id.isdigit() and len(key_id) <= 18):
        raise BadRequest("the id of a key is a number, as the list of keys shows it", "key_id")
    return box.keys.revoke(int(key_id)).shown()


@router.post("/enrol", openapi_extra=documented(Enrol))
async def enrol_box(request: Request, box: TheBox) -> dict[str, Any]:
    """Join the customer whose code this is; the box then opens its parts anew, which takes a moment."""
    asked = await read(request, Enrol)
    async with box.connect(box.settings.node_url, box.identity) as node:
        identity = await enrol.enrol(box.settings.state, box.identity, node, asked.code)
    assert identity.enrolment is not None
    asyncio.get_running_loop().call_soon(box.reopen.set)
    return {"customer": identity.enrolment.customer, "epoch": identity.enrolment.epoch}


@router.post("/sync")
async def sync_now(box: TheBox) -> dict[str, Any]:
    """Ship every record made so far and hear from the node."""
    receipt = await _worker(box).sync_now()
    return {"billed": receipt.acked, "balance": rupees(receipt.balance), "lease": rupees(receipt.lease.granted)}


@router.post("/topups", status_code=201, openapi_extra=documented(NewTopUp))
async def request_topup(request: Request, box: TheBox) -> dict[str, Any]:
    asked = await read(request, NewTopUp)
    return topups.shown(await _node(box).request_topup(asked.amount_paise, uuid4().hex))


@router.get("/topups/{reference}")
async def get_topup(reference: str, box: TheBox) -> dict[str, Any]:
    return topups.shown(await _node(box).find_topup(_reference(reference)))


@router.get("/topups/{reference}/qr.svg")
async def get_topup_code(reference: str, box: TheBox) -> Response:
    """The payment link as a QR code."""
    topup = await _node(box).find_topup(_reference(reference))
    return Response(topups.svg(topup.link), media_type="image/svg+xml")


@router.get("/models")
async def list_models(box: TheBox) -> dict[str, Any]:
    return {"models": await asyncio.to_thread(packages.shown, box.packages)}


@router.post("/models/install", status_code=201, openapi_extra=documented(Install))
async def install_model(request: Request, box: TheBox) -> dict[str, Any]:
    """Take in a package from a folder or .tar on the box's own disk. It serves once it is activated."""
    asked = await read(request, Install)
    package = await asyncio.to_thread(box.packages.install, Path(asked.path))
    return {"name": package.name, "version": package.manifest.version, "digest": package.digest.hex()}


@router.post("/models/activate", openapi_extra=documented(Activate))
async def activate_model(request: Request, box: TheBox) -> dict[str, Any]:
    """A package that the engine cannot serve is refused, and what served before goes on serving."""
    asked = await read(request, Activate)
    before = await asyncio.to_thread(box.packages.activate, asked.name, bytes.fromhex(asked.digest))
    await _serve_or_undo(box, asked.name, "digest", lambda: box.packages.restore(asked.name, before))
    return {"name": asked.name, "digest": asked.digest}


@router.post("/models/rollback", openapi_extra=documented(OneModel))
async def roll_back_model(request: Request, box: TheBox) -> dict[str, Any]:
    asked = await read(request, OneModel)
    package = await asyncio.to_thread(box.packages.roll_back, asked.name)
    await _serve_or_undo(box, asked.name, "name", lambda: box.packages.roll_back(asked.name))
    return {"name": package.name, "digest": package.digest.hex()}


@router.post("/models/deactivate", openapi_extra=documented(OneModel))
async def deactivate_model(request: Request, box: TheBox) -> dict[str, Any]:
    """Stop serving a name; calls under way finish, and its packages stay installed."""
    asked = await read(request, OneModel)
    await asyncio.to_thread(box.packages.deactivate, asked.name)
    await box.engine.reload()
    return {"name": asked.name}


@router.post("/models/remove", openapi_extra=documented(Remove))
async def remove_model(request: Request, box: TheBox) -> dict[str, Any]:
    """Delete a package that does not serve."""
    asked = await read(request, Remove)
    await asyncio.to_thread(box.packages.remove, bytes.fromhex(asked.digest))
    return {"digest": asked.digest}


async def _serve_or_undo(box: Box, name: str, field: str, undo: Callable[[], object]) -> None:
    """Let the engine serve what is active now. Where it cannot, or dies of it, `undo` and raise Conflict."""
    try:
        refused = dict(await box.engine.reload()).get(name)
    except EngineDied as error:  # When it starts again by itself, it finds the package before.
        await asyncio.to_thread(undo)
        raise Conflict(f"the engine cannot load this package ({error}): the one before stays active", field) from error
    if refused is not None:
        await asyncio.to_thread(undo)
        await box.engine.reload()
        raise Conflict(f"the engine cannot serve this package ({refused}): the one before goes on", field)


def _node(box: Box) -> NodeClient:
    if box.node is None:
        raise Conflict("this box is not enrolled: run `nukkad enrol CODE` first", code="not_enrolled")
    return box.node


def _worker(box: Box) -> SyncWorker:
    if box.worker is None:
        raise Conflict("this box is not enrolled: run `nukkad enrol CODE` first", code="not_enrolled")
    return box.worker


def _reference(text: str) -> str:
    if not (text.isascii() and text.isalnum() and len(text) <= 35):
        raise BadRequest("a top-up's reference has letters and digits only", "reference")
    return text
