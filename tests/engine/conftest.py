import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.engine.process import EngineProcess
from appliance.engine.settings import EngineSettings
from tests.support.tiny_models import install_all

# Small enough that every bound is met by a short test; a generous wait for machines with other things to do.
SMALL = EngineSettings(
    threads=1, slots=2, queue=2, prefill_tokens=16, batch_tokens=64, beat_s=0.05, patience_beats=200, backoff_s=0.05
)
READY_S = 60.0


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the three tiny packages are active. Tests that change a store make their own."""
    root = tmp_path_factory.mktemp("tiny")
    install_all(root / "store", root)
    return root / "store"


@asynccontextmanager
async def running(store: Path, settings: EngineSettings = SMALL) -> AsyncIterator[EngineProcess]:
    """A ready engine over a store, stopped at the end."""
    engine = EngineProcess(store, settings)
    await engine.start()
    try:
        await engine.wait_ready(READY_S)
        yield engine
    finally:
        await engine.stop()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    for _ in range(int(READY_S / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"never happened: {what}")
