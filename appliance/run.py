"""`nukkad serve`: the engine's process, the gateway around it, and the signals that end both."""

import asyncio
import signal

from appliance.claim import claimed
from appliance.engine.environments import python_of
from appliance.engine.placement import read_placement
from appliance.engine.process import EngineProcess
from appliance.settings import Settings
from sync.clock import SystemClock


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises EnvironmentFailed, AddressError, StateError, DatabaseError, IdentityError, LedgerError.
    """
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    python = python_of(settings.engines, read_placement(settings.provider))
    engine = EngineProcess(settings.store, settings.engine, str(python))
    with claimed(settings):
        await engine.start()
        await asyncio.sleep(0)  # The child is started now: it loads its models while this process imports the server.
        try:
            from appliance.serve import serve  # noqa: PLC0415 - at the top, the child would wait for it

            await serve(settings, engine, SystemClock(), stop)
        finally:
            await engine.stop()
