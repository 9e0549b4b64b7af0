"""The other end of one connection: whether it is still there, and handing it events while it is.

"Handed over" means given to the connection before the caller was seen to leave. Granian tells of it within about a
millisecond and drops a connection whose caller closed its sending half, so an event that crosses with the caller's
leaving may be counted and lost: one at most, in about one leaving of ten when tokens come every 2 ms. A caller that
closes without reading on has read less still. Who wants to count to the code point cancels over
`POST /v1/requests/{id}/cancel` and reads to the end; who wants to know asks `GET /v1/usage/requests/{id}`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.types import Receive, Send

T = TypeVar("T")
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # A proxy must not hold text back.
]


class Caller:
    """Sets `stop` when the caller has left, or stalled for `send_s` seconds, which counts as leaving."""

    def __init__(self, receive: Receive, send: Send, stop: asyncio.Event, send_s: float) -> None:
        self._receive = receive
        self._send = send
        self._stop = stop
        self._send_s = send_s
        self.here = True
        self.opened = False

    async def open(self) -> None:
        """The head of an event stream; afterwards a failure can only be told as an event."""
        self.opened = True
        await self._pass({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

    async def hand(self, event: bytes) -> bool:
        """Whether the event was handed over."""
        return await self._pass({"type": "http.response.body", "body": event, "more_body": True})

    async def close(self) -> None:
        """The orderly end. A stream that is given up ends without it, so that a caller can tell the two apart."""
        await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, message: dict[str, Any]) -> bool:
        if self.here:
            try:
                async with asyncio.timeout(self._send_s):
                    await self._send(message)
            except (TimeoutError, OSError):  # OSError is how ASGI servers may tell that the connection is gone.
                self._leave()
        return self.here

    def _leave(self) -> None:
        self.here = False
        self._stop.set()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, leaving is noticed. The body must have been read before."""
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def until(stop: asyncio.Event, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The events, up to the moment that `stop` is set; then, and in every other case, `events` is closed."""
    stopped = asyncio.create_task(stop.wait())
    try:
        while True:
            step = asyncio.ensure_future(_next(events))
            try:
                await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not step.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
            if stop.is_set():
                step.cancelled() or step.exception()  # An event that came together with the stop is not handed on.
                return
            try:
                event = step.result()
            except StopAsyncIteration:
                return
            yield event
    finally:
        stopped.cancel()
        await events.aclose()


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work returns; None, and the work is cancelled, when `stop` is set first."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else task.result()
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)
