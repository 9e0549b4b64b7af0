"""What one caller may take of the box before it is worked for: bytes of body, seconds to send them, a place."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.gateway.errors import BadRequest, BodyTooLarge, Busy, ReceiveTimeout

ALWAYS_ANSWERED = frozenset({"/healthz", "/readyz", "/metrics"})  # cheap, and most wanted when the box is full


class Limits:
    """ASGI. The deadline runs from the first look at the body to its last byte: a dribble does not move it.

    A caller without a key is turned away before its body is looked at, so only callers with keys can hold places.
    """

    def __init__(self, app: ASGIApp, body_bytes_max: int, receive_s: float, concurrency: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._receive_s = receive_s
        self._concurrency = concurrency
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_ANSWERED:
            await self._app(scope, receive, send)
            return
        self._check_length(Headers(scope=scope).get("content-length"))
        if self._running >= self._concurrency:
            raise Busy(f"the box is working on {self._concurrency} requests already: try again in a moment")
        self._running += 1
        try:
            await self._app(scope, self._bounded(receive), send)
        finally:
            self._running -= 1

    def _check_length(self, told: str | None) -> None:
        if told is None:
            return
        if not (told.isascii() and told.isdigit()):
            raise BadRequest("Content-Length must be a number", "Content-Length")
        if len(told) > 18 or int(told) > self._body_bytes_max:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"a request body may have at most {self._body_bytes_max} bytes: send less, or in parts")

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0
        whole = False
        deadline: float | None = None

        async def bounded() -> Message:
            nonlocal seen, whole, deadline
            if whole:
                return await receive()  # What follows the body is only the news that the caller left.
            deadline = deadline or asyncio.get_running_loop().time() + self._receive_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ReceiveTimeout(f"the request did not arrive within {self._receive_s:g} seconds") from None
            seen += len(message.get("body", b""))
            if seen > self._body_bytes_max:
                raise self._too_large()
            whole = not message.get("more_body", False)
            return message

        return bounded
