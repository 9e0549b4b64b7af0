"""An embedded granian server from its start to its stop, alike for the box's gateway and the node.

Embedded in this process's event loop there is no worker that a kill -9 would leave behind on the port, and everything
shares one loop without locks. Granian's own supervisor would add a process for nothing: there is one worker.
"""

import asyncio
from collections.abc import Callable, Iterable

from granian.server.embed import Server

CUT_S = 5  # for streams that were told to end


async def serve_until(
    server: Server, ends: Iterable[asyncio.Event], stop_s: float, cut: Callable[[], None] | None = None
) -> None:
    """Until one of `ends` is set. Running requests then have `stop_s`; `cut` tells those left to end."""
    serving = asyncio.create_task(server.serve(), name="server")
    waiting = [asyncio.create_task(event.wait()) for event in ends]
    try:
        await asyncio.wait([serving, *waiting], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            server.stop()  # type: ignore[no-untyped-call]  # granian gives it no types
            await asyncio.wait([serving], timeout=stop_s)
            if cut is not None and not serving.done():
                cut()
                await asyncio.wait([serving], timeout=CUT_S)
        if serving.done():
            serving.result()
    finally:
        for task in (serving, *waiting):
            task.cancel()
        await asyncio.gather(serving, *waiting, return_exceptions=True)
