import json
from collections.abc import Callable

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.errors import BadAnswer, Conflict, Gap, NodeError, Refused, Unreachable
from sync.identity import Identity
from sync.segment import Head, SignedReceipt, SignedSegment, TopUp
from sync.signature import Purpose, request_message, verify
from sync.transport import ANSWER_BYTES_MAX, HttpNode, http_client
from tests.support.held_clock import HeldClock
from tests.support.usage import DEVICE

IDENTITY = Identity(DEVICE, Ed25519PrivateKey.from_private_bytes(b"k" * 32), None)
URL = "https://node.example"
SEGMENT = SignedSegment(b"payload", bytes(64))
RECEIPT = SignedReceipt(b"receipt", bytes(64))
TOPUP = {"reference": "NK1", "amount_paise": 50_000, "link": "upi://pay?tr=NK1", "status": "open"}
Handler = Callable[[httpx.Request], httpx.Response]


def node(handler: Handler) -> HttpNode:
    def stream(request: httpx.Request) -> httpx.Response:
        """The answer as it comes from a socket: not read yet."""
        answer = handler(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

    return HttpNode(URL + "/", httpx.AsyncClient(transport=httpx.MockTransport(stream)), IDENTITY, HeldClock())


def refusal(status: int, code: str = "some_code", **extras: object) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "why and what to do"}, **extras})


async def test_a_segment_goes_out_as_its_bytes_and_a_receipt_comes_back() -> None:
    def take(request: httpx.Request) -> httpx.Response:
        assert (request.method, str(request.url)) == ("POST", URL + "/v1/sync/segments")
        assert request.headers["content-type"] == "application/cbor"
        assert request.content == SEGMENT.to_bytes()
        return httpx.Response(200, content=RECEIPT.to_bytes())

    assert await node(take).send_segment(SEGMENT) == RECEIPT


async def test_a_gap_carries_the_nodes_head() -> None:
    head = Head(7, b"h" * 32)
    with pytest.raises(Gap) as gap:
        await node(lambda _: httpx.Response(409, content=head.to_bytes())).send_segment(SEGMENT)
    assert gap.value.head == head


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(422, "fork"), Conflict),
        (refusal(422, "device_frozen"), Conflict),
        (refusal(422, "unknown_price_book"), Refused),
        (refusal(401, "unauthorized"), Refused),
        (refusal(400), Refused),
        (refusal(429), Unreachable),
        (refusal(408), Unreachable),
        (refusal(503), Unreachable),
        (httpx.Response(502, text="<html>bad gateway"), Unreachable),
        (httpx.Response(200, text="<html>sign in to this Wi-Fi"), BadAnswer),
        (httpx.Response(403, text="<html>sign in to this Wi-Fi"), BadAnswer),
        (httpx.Response(302, headers={"location": "http://login.example"}), BadAnswer),
        (httpx.Response(409, text="not a head"), BadAnswer),
        (httpx.Response(200, content=bytes(ANSWER_BYTES_MAX + 1)), BadAnswer),
        (httpx.Response(404, content=b"[" * 10_000), BadAnswer),
    ],
)
async def test_every_other_answer_is_an_error_of_its_kind(answer: httpx.Response, error: type[NodeError]) -> None:
    with pytest.raises(NodeError, match=URL) as raised:
        await node(lambda _: answer).send_segment(SEGMENT)
    assert type(raised.value) is error


async def test_the_nodes_reason_reaches_the_operator() -> None:
    with pytest.raises(Refused, match=r"401 some_code\): why and what to do"):
        await node(lambda _: refusal(401)).send_segment(SEGMENT)


@pytest.mark.parametrize("failure", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
async def test_no_line_is_unreachable(failure: type[httpx.TransportError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure("gone")

    with pytest.raises(Unreachable, match=failure.__name__):
        await node(fail).send_segment(SEGMENT)


async def test_a_real_socket_that_nobody_serves_is_unreachable() -> None:
    async with http_client() as http:
        with pytest.raises(Unreachable, match="ConnectError"):
            await HttpNode("http://127.0.0.1:9", http, IDENTITY, HeldClock()).send_segment(SEGMENT)


async def test_enrolment_pins_the_nodes_key() -> None:
    def take(request: httpx.Request) -> httpx.Response:
        wish = {"code": "CODE", "device": DEVICE.hex(), "public_key": IDENTITY.public_key.hex()}
        assert (request.url.path, json.loads(request.content)) == ("/v1/devices/enrol", wish)
        return httpx.Response(200, json={"customer": "shop", "epoch": 3, "node_public_key": "ab" * 32, "node_ms": 1})

    enrolment = await node(take).enrol("CODE", DEVICE, IDENTITY.public_key)
    assert (enrolment.node_url, enrolment.customer, enrolment.epoch) == (URL, "shop", 3)
    assert enrolment.node_public_key == b"\xab" * 32


@pytest.mark.parametrize("answer", [{}, {"customer": "shop"}, {"customer": 5, "epoch": 1, "node_public_key": "xyz"}])
async def test_half_an_enrolment_is_none(answer: object) -> None:
    with pytest.raises(BadAnswer):
        await node(lambda _: httpx.Response(200, json=answer)).enrol("CODE", DEVICE, IDENTITY.public_key)


def check_signature(request: httpx.Request) -> int:
    """The time that the request is signed with."""
    time_ms = int(request.headers["x-nukkad-time"])
    message = request_message(request.method, request.url.path, time_ms, request.content)
    verify(IDENTITY.public_key, Purpose.REQUEST, message, bytes.fromhex(request.headers["x-nukkad-signature"]))
    assert request.headers["x-nukkad-device"] == DEVICE.hex()
    return time_ms


async def test_top_ups_are_asked_for_and_found_with_a_signature() -> None:
    def take(request: httpx.Request) -> httpx.Response:
        assert check_signature(request) == HeldClock().now_ms
        if request.method == "POST":
            assert json.loads(request.content) == {"amount_paise": 50_000, "request_id": "wish-0001"}
        else:
            assert (request.url.path, request.content) == ("/v1/topups/NK1", b"")
        return httpx.Response(200, json=TOPUP)

    expected = TopUp("NK1", 50_000, "upi://pay?tr=NK1", "open")
    assert await node(take).request_topup(50_000, "wish-0001") == expected
    assert await node(take).find_topup("NK1") == expected
    with pytest.raises(ValueError, match="reference"):
        await node(take).find_topup("../devices")


async def test_a_box_with_a_wrong_clock_signs_again_with_the_nodes_time() -> None:
    times: list[int] = []

    def take(request: httpx.Request) -> httpx.Response:
        times.append(check_signature(request))
        return refusal(401, "stale", node_ms=42) if len(times) == 1 else httpx.Response(200, json=TOPUP)

    await node(take).request_topup(50_000, "wish-0001")
    assert times == [HeldClock().now_ms, 42]
    with pytest.raises(Refused, match="stale"):
        await node(lambda _: refusal(401, "stale", node_ms=42)).find_topup("NK1")


@pytest.mark.parametrize("answer", [{**TOPUP, "status": "lost"}, {**TOPUP, "amount_paise": "5"}, {"link": ""}, [], "x"])
async def test_half_a_top_up_is_none(answer: object) -> None:
    with pytest.raises(BadAnswer):
        await node(lambda _: httpx.Response(200, json=answer)).find_topup("NK1")


@pytest.mark.parametrize("url", ["http://node.example", "ftp://node.example", "node.example", ""])
def test_a_line_that_strangers_can_read_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no node's address"):
        HttpNode(url, httpx.AsyncClient(), IDENTITY, HeldClock())
