"""The real server against callers that send too much, too slowly, half of it, or leave. Its bounds are made small."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from appliance.text.points import count_points
from tests.support.box import Served, Street, served
from tests.support.fake_engine import CHAT_MODEL

HEADER_S = RECEIVE_S = SEND_S = 1
BODY_BYTES_MAX = 4096
WAIT_S = 20  # far beyond every bound above: a socket that is still open then was left open


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bounds: dict[str, Any] = {
        "header_s": HEADER_S,
        "receive_s": RECEIVE_S,
        "send_s": SEND_S,
        "body_bytes_max": BODY_BYTES_MAX,
    }
    street = Street(tmp_path_factory.mktemp("shop"))
    street.engine.context_tokens = 1_000_000
    with served(street, **bounds) as running:
        yield running


@pytest.fixture
def shop(open_shop: Served) -> Iterator[Served]:
    engine = open_shop.street.engine
    engine.allowed, engine.echo_times = None, 1
    yield open_shop
    engine.allowed = None
    assert httpx.get(f"{open_shop.url}/readyz", trust_env=False).status_code == 200


class Line:
    """A connection that a test holds in its hand."""

    def __init__(self, shop: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", shop.port), timeout=WAIT_S)
        self.received = b""

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_until(self, mark: bytes, count: int = 1) -> None:
        while self.received.count(mark) < count:
            data = self.socket.recv(65536)
            assert data, "the server ended the connection"
            self.received += data

    def drain(self) -> bytes:
        """Everything up to the end that the server makes. Fails when it makes none."""
        try:
            while data := self.socket.recv(65536):
                self.received += data
        except ConnectionResetError:
            pass
        return self.received


def head(shop: Served, length: int | None, path: str = "/v1/chat/completions", more: str = "") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {shop.key}\r\n"
        f"Content-Type: application/json\r\n{size}\r\n{more}\r\n"
    ).encode()


def chat(text: str, **more: Any) -> bytes:
    return json.dumps({"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}], **more}).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_connections_without_whole_headers_are_ended(shop: Served) -> None:
    lines = [Line(shop) for _ in range(3)]
    for line, sent in zip(lines, (b"", b"POST /v1/chat", b"POST /v1/chat HTTP/1.1\r\nHost: x\r\n"), strict=True):
        line.send(sent)
    for line in lines:
        with line:
            assert b"200 OK" not in line.drain()


def test_a_body_that_stops_half_way_is_ended_with_408(shop: Served) -> None:
    with Line(shop) as line:
        line.send(head(shop, 500) + b'{"model"')
        answer = line.drain()
    assert status(answer) == 408
    assert b'"receive_timeout"' in answer


def test_a_dribble_does_not_move_the_deadline(shop: Served) -> None:
    with Line(shop) as line:
        line.send(head(shop, 4000))
        line.socket.settimeout(0.1)
        began = time.monotonic()
        while time.monotonic() - began < WAIT_S:
            try:
                line.send(b" ")
                line.received += line.socket.recv(65536)
                break
            except TimeoutError:
                continue
        line.socket.settimeout(WAIT_S)
        assert status(line.drain()) == 408


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_cap_is_refused_before_it_is_all_read(shop: Served, chunked: bool) -> None:
    with Line(shop) as line:
        line.send(head(shop, None if chunked else 400 << 20))
        try:
            for _ in range(400 << 4):
                line.send(b"10000\r\n" + b" " * 65536 + b"\r\n" if chunked else b" " * 65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("400 MiB were taken in")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_a_little_over_the_cap_gets_413(shop: Served, chunked: bool) -> None:
    body = b" " * (BODY_BYTES_MAX + 1)
    with Line(shop) as line:
        line.send(head(shop, None if chunked else len(body)))
        line.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        answer = line.drain()
    assert status(answer) == 413
    assert b'"body_too_large"' in answer


def test_a_stranger_is_turned_away_before_its_body_is_waited_for(shop: Served) -> None:
    with Line(shop) as line:
        line.send(head(shop, 4000).replace(b"Bearer nk_", b"Bearer xx_"))
        line.read_until(b"invalid_api_key")
        assert status(line.received) == 401


def test_a_caller_that_leaves_a_stream_stops_the_engine_and_pays_for_what_it_got(shop: Served) -> None:
    cancelled = shop.street.engine.cancelled
    request_id = str(uuid4())
    body = chat("नमस्ते " * 90, stream=True)
    shop.street.engine.allowed = 5
    with Line(shop) as line:
        line.send(head(shop, len(body), more=f"X-Request-Id: {request_id}\r\n") + body)
        line.read_until("नमस्ते".encode(), 5)
        line.socket.shutdown(socket.SHUT_WR)  # Gone for the server, but it goes on reading what was sent.
        got = text_of(line.drain())
    found = lookup(shop, request_id)

    assert shop.street.engine.cancelled == cancelled + 1
    assert found["outcome"] == "cancelled"
    assert got == "नमस्ते " * 5
    assert found["units"]["points_out"] == count_points(got)


def test_a_caller_that_leaves_before_any_text_pays_nothing(shop: Served) -> None:
    for stream in (True, False):
        cancelled, request_id = shop.street.engine.cancelled, str(uuid4())
        body = chat("one two", stream=stream)
        shop.street.engine.allowed = 0
        with Line(shop) as line:
            line.send(head(shop, len(body), more=f"X-Request-Id: {request_id}\r\n") + body)
            wait_running(shop, request_id)
        answer = ask_until_ended(shop, request_id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_billed")
        assert shop.street.engine.cancelled == cancelled + 1


def test_a_caller_that_does_not_read_is_given_up(shop: Served) -> None:
    request_id = str(uuid4())
    body = chat("a" * 4000, stream=True)
    shop.street.engine.echo_times = 10_000
    with Line(shop) as line:
        line.send(head(shop, len(body), more=f"X-Request-Id: {request_id}\r\n") + body)
        found = lookup(shop, request_id)
    assert found["outcome"] == "cancelled"
    assert 0 < found["units"]["points_out"] < 10_000 * 4000


def test_bytes_that_are_no_http_do_no_harm(shop: Served) -> None:
    nonsense = (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", b"\x00" * 99, b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 999)
    lines = [Line(shop) for _ in nonsense]
    for line, sent in zip(lines, nonsense, strict=True):
        line.send(sent)
    for line in lines:
        with line:
            assert b"200 OK" not in line.drain()


# What the tests above need.


def text_of(answer: bytes) -> str:
    """The text in the events of a chunked answer."""
    told = ""
    for line in answer.decode(errors="ignore").replace("\r\n", "\n").split("\n"):
        if line.startswith("data: {"):
            told += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
    return told


def ask_until_ended(shop: Served, request_id: str) -> httpx.Response:
    url, headers = f"{shop.url}/v1/usage/requests/{request_id}", {"Authorization": f"Bearer {shop.key}"}
    deadline = time.monotonic() + WAIT_S
    while (answer := httpx.get(url, headers=headers, trust_env=False)).status_code == 409:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def lookup(shop: Served, request_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_S
    while (answer := ask_until_ended(shop, request_id)).status_code == 404:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(answer.json())


def wait_running(shop: Served, request_id: str) -> None:
    url, headers = f"{shop.url}/v1/usage/requests/{request_id}", {"Authorization": f"Bearer {shop.key}"}
    deadline = time.monotonic() + WAIT_S
    while httpx.get(url, headers=headers, trust_env=False).status_code != 409:
        assert time.monotonic() < deadline
        time.sleep(0.01)
