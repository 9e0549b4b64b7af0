"""What boxes ask for: to enrol, to hand in segments, to top up."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from sync.node import auth, topups
from sync.node.context import Node
from sync.node.enrol import enrol
from sync.node.errors import Refusal
from sync.node.ingest import Gap, ingest
from sync.node.routes.body import JSON_BYTES_MAX, Form, parse, read_body
from sync.node.settings import PAISE_MAX
from sync.node.state import public_bytes
from sync.segment import SEGMENT_BYTES_MAX, Head, SignedSegment

CBOR = "application/cbor"
router = APIRouter(prefix="/v1")


class Enrol(Form):
    code: Annotated[str, Field(min_length=1, max_length=40)]
    device: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RequestTopUp(Form):
    amount_paise: Annotated[int, Field(ge=topups.LEAST_PAISE, le=PAISE_MAX)]
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]


@router.post("/devices/enrol")
async def enrol_device(request: Request) -> dict[str, object]:
    node: Node = request.app.state.node
    form = parse(Enrol, await read_body(request, JSON_BYTES_MAX))
    device, public_key = bytes.fromhex(form.device), bytes.fromhex(form.public_key)
    enrolment = await run_in_threadpool(enrol, node, form.code, device, public_key)
    return {
        "customer": enrolment.customer,
        "epoch": enrolment.epoch,
        "node_public_key": public_bytes(node.key).hex(),
        "node_ms": node.clock.wall_ms(),
    }


@router.post("/sync/segments")
async def take_segment(request: Request) -> Response:
    node: Node = request.app.state.node
    body = await read_body(request, SEGMENT_BYTES_MAX + 1024)
    try:
        signed = SignedSegment.from_bytes(body)
    except ValueError as error:
        raise Refusal(400, "malformed", str(error)) from None
    try:
        receipt = await run_in_threadpool(ingest, node, signed)
    except Gap as gap:
        return Response(Head(gap.acked, gap.link).to_bytes(), status_code=409, media_type=CBOR)
    return Response(receipt.to_bytes(), media_type=CBOR)


@router.post("/topups")
async def request_topup(request: Request) -> dict[str, object]:
    node: Node = request.app.state.node
    body = await read_body(request, JSON_BYTES_MAX)

    def make() -> dict[str, object]:
        now_ms = node.clock.wall_ms()
        with node.database.transaction() as connection:
            epoch = auth.require_device(
                node, connection, request.headers, method="POST", path=request.url.path, body=body
            )
            form = parse(RequestTopUp, body)
            made = topups.request(
                connection,
                epoch.customer,
                epoch.device,
                form.request_id,
                form.amount_paise,
                now_ms=now_ms,
                random=node.random,
            )
        return show(node, made, now_ms)

    return await run_in_threadpool(make)


@router.get("/topups/{reference}")
def find_topup(request: Request, reference: str) -> dict[str, object]:
    node: Node = request.app.state.node
    now_ms = node.clock.wall_ms()
    with node.database.transaction() as connection:
        epoch = auth.require_device(node, connection, request.headers, method="GET", path=request.url.path, body=b"")
        found = topups.find(connection, reference)
        if found.customer != epoch.customer:
            raise Refusal(404, "unknown_topup", "there is no such top-up of this customer")
    return show(node, found, now_ms)


def show(node: Node, topup: topups.StoredTopUp, now_ms: int) -> dict[str, object]:
    shown = topup.show(node.settings, now_ms)
    return {
        "reference": shown.reference,
        "link": shown.link,
        "amount_paise": shown.amount_paise,
        "status": shown.status,
    }
