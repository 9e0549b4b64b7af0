"""A box to test with: real ledger, meter, keys and sync worker in a temporary folder; engine and node are fakes."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from appliance import state
from appliance.app import create_app
from appliance.box import Box
from appliance.claim import claimed
from appliance.engine.protocol import Delta, EngineDied, EngineUnavailable, GenerateEvent, GenerateRequest
from appliance.serve import open_box, serve
from appliance.settings import Settings
from appliance.store.database import open_database
from appliance.store.keys import Keys
from sync.enrol import enrol
from sync.identity import Identity, load_or_create
from sync.transport import NodeClient
from tests.support.fake_engine import FakeEngine
from tests.support.held_clock import HeldClock
from tests.support.house import answers, free_port, wait_until
from tests.support.memory_node import MemoryNode

WALLET = 500_000_000  # micro-rupees: ₹500


async def eventually(condition: Callable[[], bool]) -> None:
    """Lets others go on until the condition holds; what a test waits for in vain is ended by the test's own timeout."""
    while not condition():  # noqa: ASYNC110 - conditions of any kind, turned from any thread
        await asyncio.sleep(0.001)


class TestEngine(FakeEngine):
    """The fake engine with a package store to reload from, and two more knobs; tests in other threads may turn them.

    `allowed`     how many more deltas may leave, over all streams; None: any number.
    `echo_times`  every delta is given this many times.
    """

    __test__ = False
    refused: tuple[tuple[str, str], ...] = ()
    allowed: int | None = None
    echo_times = 1
    dies_of_reload = False
    starting = False

    async def reload(self) -> tuple[tuple[str, str], ...]:
        if self.starting:
            raise EngineUnavailable("the engine is starting: try again in a moment")
        if self.dies_of_reload:
            raise EngineDied("the engine died while it was loading")
        return self.refused

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                if not isinstance(event, Delta):
                    yield event
                    continue
                for _ in range(self.echo_times):
                    await eventually(lambda: self.allowed is None or self.allowed > 0)
                    if self.allowed is not None:
                        self.allowed -= 1
                    yield event


class Street:
    """One box's surroundings: its folder, clock, engine, and the node it is enrolled with."""

    def __init__(self, folder: Path, wallet: int = WALLET) -> None:
        self.folder = folder / "box"
        self.clock = HeldClock()
        self.engine = TestEngine()
        self.node = MemoryNode(b"", self.clock, wallet)

    @asynccontextmanager
    async def connect(self, _: str, __: Identity) -> AsyncIterator[NodeClient]:
        yield self.node

    async def enrol(self) -> None:
        await enrol(self.folder, load_or_create(self.folder), self.node, "GOOD-CODE")

    def new_key(self, name: str = "shop") -> str:
        database = open_database(self.folder, self.clock)
        try:
            return Keys(database, self.clock).create(name)[1]
        finally:
            database.close()

    @asynccontextmanager
    async def box(self, **settings: int | str) -> AsyncIterator[Box]:
        """The box, opened; when it is enrolled, its worker has synced and there is a lease."""
        chosen = Settings(state=self.folder, **settings)  # type: ignore[arg-type]
        async with AsyncExitStack() as opened:
            box = await open_box(chosen, self.engine, self.clock, self.connect, opened)
            worker = box.worker
            if worker is not None:
                await eventually(lambda: worker.status().synced_ms is not None)
            yield box

    @asynccontextmanager
    async def caller(self, box: Box, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the app without a network. Without a token it carries a fresh key."""
        transport = httpx.ASGITransport(create_app(box), raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token or box.keys.create('test')[1]}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
            yield client


class Served:
    """A box behind the real server, in a thread of its own. `key` is a caller's."""

    def __init__(self, street: Street, settings: Settings, key: str) -> None:
        self.street = street
        self.settings = settings
        self.port = settings.port
        self.key = key
        self.url = f"http://127.0.0.1:{settings.port}"
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        with claimed(self.settings):
            await serve(self.settings, self.street.engine, self.street.clock, self._stop, self.street.connect)

    def start(self) -> None:
        self._thread.start()
        wait_until(lambda: answers(f"{self.url}/readyz") or not self._thread.is_alive(), "the box is ready", 20)

    def ask_to_stop(self) -> None:
        assert self._loop is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> None:
        self.ask_to_stop()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the box did not stop"


@contextmanager
def served(street: Street, enrolled: bool = True, **settings: int | str) -> Iterator[Served]:
    if enrolled:
        asyncio.run(street.enrol())
    state.prepare(street.folder)
    chosen = Settings(state=street.folder, port=free_port(), **settings)  # type: ignore[arg-type]
    running = Served(street, chosen, street.new_key())
    running.start()
    try:
        yield running
    finally:
        running.stop()
