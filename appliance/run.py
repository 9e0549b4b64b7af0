"""`nukkad serve`: the engine's process, the gateway around it, and the signals that end both."""

import asyncio
import signal

from appliance.claim import claimed
from appliance.engine.process import EngineProcess
from appliance.settings import Settings
from sync.clock import SystemClock


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises AddressError, StateError, DatabaseError, IdentityError, LedgerError."""
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    engine = EngineProcess(settings.store, settings.engine)
    with claimed(settings):
        await engine.start()
        await asyncio.sleep(0)  # The child is started now: it loads its models while this process imports the server.
        try:
            from appliance.serve import serve  # noqa: PLC0415 - at the top, the child would wait for it

            await serve(settings, engine, SystemClock(), stop)
        finally:
            await engine.stop()
