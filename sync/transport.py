"""The box's side of the node's HTTP interface. What comes back is bounded, checked, and turned into types or errors."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol

import httpx

from sync.clock import Clock
from sync.errors import BadAnswer, Conflict, Gap, NodeError, Refused, Unreachable
from sync.identity import Enrolment, Identity
from sync.reach import check_node_url
from sync.segment import RECEIPT_BYTES_MAX, Head, SignedReceipt, SignedSegment, TopUp
from sync.signature import Purpose, request_message, sign

CBOR, JSON = "application/cbor", "application/json"
ANSWER_BYTES_MAX = RECEIPT_BYTES_MAX + 1024
REQUEST_S_MAX = 60
_OTHER_HISTORY = ("fork", "device_frozen")  # the node's words for a box that is two


class NodeClient(Protocol):
    """What a box asks of its node. All calls may be repeated after a lost answer; all raise NodeError."""

    async def enrol(self, code: str, device: bytes, public_key: bytes) -> Enrolment: ...

    async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
        """Raises Gap when the node's chain ends before the segment, Conflict when it holds another history."""
        ...

    async def request_topup(self, amount_paise: int, request_id: str) -> TopUp:
        """`request_id`: 8 to 64 letters, digits, - or _, made once per wish; the same again is the same top-up."""
        ...

    async def find_topup(self, reference: str) -> TopUp: ...


def http_client() -> httpx.AsyncClient:
    """The client HttpNode is made for. It ignores proxy variables of the environment; the node's URL says it all."""
    return httpx.AsyncClient(timeout=httpx.Timeout(30, connect=10), follow_redirects=False, trust_env=False)


class HttpNode:
    """NodeClient over HTTP. Raises ValueError for a URL that is neither https nor loopback."""

    def __init__(self, url: str, http: httpx.AsyncClient, identity: Identity, clock: Clock) -> None:
        check_node_url(url)
        self._url = url.rstrip("/")
        self._http, self._identity, self._clock = http, identity, clock

    async def enrol(self, code: str, device: bytes, public_key: bytes) -> Enrolment:
        wish = {"code": code, "device": device.hex(), "public_key": public_key.hex()}
        answer = self._read_json(*await self._send("POST", "/v1/devices/enrol", JSON, json.dumps(wish).encode()))
        try:
            return Enrolment(self._url, answer["node_public_key"], answer["customer"], answer["epoch"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad_answer(repr(error)) from error

    async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
        status, body = await self._send("POST", "/v1/sync/segments", CBOR, signed.to_bytes())
        try:
            if status == 200:
                return SignedReceipt.from_bytes(body)
            if status == 409:
                raise Gap(Head.from_bytes(body))
        except ValueError as error:
            raise self._bad_answer(str(error)) from error
        raise self._refusal(status, body)

    async def request_topup(self, amount_paise: int, request_id: str) -> TopUp:
        wish = json.dumps({"amount_paise": amount_paise, "request_id": request_id}).encode()
        return self._read_topup(await self._send_signed("POST", "/v1/topups", wish))

    async def find_topup(self, reference: str) -> TopUp:
        if not (reference.isascii() and reference.isalnum()):
            raise ValueError("reference: must be letters and digits")
        return self._read_topup(await self._send_signed("GET", f"/v1/topups/{reference}", b""))

    async def _send_signed(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """Signed with the box's time; where that is far off, once more with the time that the node tells."""
        answer = await self._send(method, path, JSON, body, self._sign(method, path, body, self._clock.wall_ms()))
        if answer[0] == 401:
            node_ms = _read_object(answer[1]).get("node_ms")
            if type(node_ms) is int:
                answer = await self._send(method, path, JSON, body, self._sign(method, path, body, node_ms))
        return self._read_json(*answer)

    def _sign(self, method: str, path: str, body: bytes, time_ms: int) -> dict[str, str]:
        signature = sign(self._identity.key, Purpose.REQUEST, request_message(method, path, time_ms, body))
        return {
            "X-Nukkad-Device": self._identity.device.hex(),
            "X-Nukkad-Time": str(time_ms),
            "X-Nukkad-Signature": signature.hex(),
        }

    async def _send(
        self, method: str, path: str, media: str, body: bytes, signed: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body, of at most ANSWER_BYTES_MAX, within REQUEST_S_MAX."""
        headers = {"Content-Type": media, "Accept-Encoding": "identity", **(signed or {})}
        received = bytearray()
        try:
            async with (
                asyncio.timeout(REQUEST_S_MAX),
                self._http.stream(method, self._url + path, content=body, headers=headers) as response,
            ):
                async for chunk in response.aiter_raw():
                    received += chunk
                    if len(received) > ANSWER_BYTES_MAX:
                        raise self._bad_answer(f"more than {ANSWER_BYTES_MAX} bytes")
                return response.status_code, bytes(received)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Unreachable(f"node {self._url}: no answer ({type(error).__name__}); check the line") from error

    def _read_json(self, status: int, body: bytes) -> dict[str, Any]:
        if status != 200:
            raise self._refusal(status, body)
        answer = _read_object(body)
        if not answer:
            raise self._bad_answer("not a JSON object")
        return answer

    def _read_topup(self, answer: dict[str, Any]) -> TopUp:
        try:
            return TopUp(answer["reference"], answer["amount_paise"], answer["link"], answer["status"])
        except (KeyError, ValueError) as error:
            raise self._bad_answer(repr(error)) from error

    def _refusal(self, status: int, body: bytes) -> NodeError:
        """What a status other than success means. Only a 4xx in the node's own shape is the node's no."""
        error = _read_object(body).get("error")
        if status >= 500 or status in (408, 429):
            return Unreachable(f"node {self._url}: is down or busy (status {status})")
        if status < 400 or not isinstance(error, dict):
            return self._bad_answer(f"status {status}")
        code, message = (str(error.get(key))[:300] for key in ("code", "message"))
        kind = Conflict if code in _OTHER_HISTORY else Refused
        return kind(f"node {self._url}: refuses ({status} {code}): {message}")

    def _bad_answer(self, what: str) -> BadAnswer:
        return BadAnswer(f"node {self._url}: the answer is not a node's ({what}); is a Wi-Fi sign-in page in between?")


def _read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; empty when there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
