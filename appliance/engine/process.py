"""The engine as a supervised child process: a model that crashes takes down nothing but the calls in flight."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import appliance
from appliance.engine.link import Call, Link
from appliance.engine.messages import Beat, Embed, Generate, Loaded, Loading, Reload, ToChild, configure
from appliance.engine.protocol import (
    Called,
    Delta,
    EmbedRequest,
    EmbedResult,
    EngineDied,
    EngineHealth,
    EngineUnavailable,
    Finished,
    GenerateEvent,
    GenerateRequest,
    InvalidRequest,
    ModelInfo,
    Started,
)
from appliance.engine.requests import check_embed, check_generate
from appliance.engine.settings import EngineSettings
from appliance.engine.wire import FrameTooLarge, WireError

STRIKES = 2  # One death while loading may have been chance (memory, an operator); the second was the package.
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")
STOP_MARGIN_S = 5.0

log = logging.getLogger("nukkad.engine")


class EngineProcess:
    """Implements `Engine`. Belongs to the event loop that `start` runs in.

    The child shares a socket pair with this process: there is no path to guard, and the end of either side is the end
    of file of the other. It dies with this process, however that ends.
    """

    def __init__(self, store: Path, settings: EngineSettings, python: str = sys.executable) -> None:
        """`store`: root of the package store; every active package in it is served.

        `python` runs the child: another environment's, if that is where the runtime for the box's device is.
        """
        self._store = store
        self._python = python
        self._settings = settings
        self._link: Link | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._models: tuple[ModelInfo, ...] = ()
        self._set_aside: tuple[tuple[str, str], ...] = ()
        self._restarts = 0
        self._ready = asyncio.Event()
        self._stopping = False
        self._supervisor: asyncio.Task[None] | None = None
        self._strikes: Counter[bytes] = Counter()
        self._loading: Loading | None = None
        self._silent_beats = 0
        self._reloads: deque[asyncio.Future[None]] = deque()

    # Life.

    async def start(self) -> None:
        """Begin supervision and return at once; calls are refused as EngineUnavailable until the child is ready."""
        assert self._supervisor is None
        self._supervisor = asyncio.create_task(self._supervise(), name="engine supervisor")
        self._supervisor.add_done_callback(_report)

    async def wait_ready(self, timeout_s: float) -> None:
        """Raises EngineUnavailable when the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise EngineUnavailable(f"the engine is not ready after {timeout_s:g} s") from None

    async def reload(self) -> tuple[tuple[str, str], ...]:
        """Serve what is active in the store now; returns what could not be loaded and why.

        Calls in flight finish on the package they began with; a name whose new package fails keeps its old one.
        Raises EngineDied, and EngineUnavailable when it is starting: it then loads what is active by itself.
        """
        link = self._connected()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reloads.append(done)
        await link.send(Reload())
        await done
        return self._set_aside

    async def stop(self) -> None:
        """Let running calls finish (bounded by `drain_s`), then end the child. Stopping twice is fine."""
        self._stopping = True
        if self._supervisor is None:
            return
        if self._child is None:
            self._supervisor.cancel()
        else:
            self._child.terminate()
        await asyncio.wait([self._supervisor], timeout=self._settings.drain_s + STOP_MARGIN_S)
        self._supervisor.cancel()
        await asyncio.gather(self._supervisor, return_exceptions=True)
        self._supervisor = None

    # Engine.

    async def models(self) -> tuple[ModelInfo, ...]:
        self._connected()
        return self._models

    async def health(self) -> EngineHealth:
        calls = self._link.calls if self._link else ()
        running = sum(call.running for call in calls)
        slots = self._settings.slots * sum(model.family == "decoder" for model in self._models)
        ready = self._ready.is_set()
        pid = self._child.pid if self._child else None
        return EngineHealth(ready, pid, self._restarts, len(calls) - running, running, slots, self._set_aside)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        check_embed(request)
        call = await self._call(lambda number: Embed(number, request), "texts")
        call.running = True  # Its texts take turns with everybody's from now on.
        try:
            outcome = await call.next()
        finally:
            call.close()
        assert isinstance(outcome, EmbedResult)
        return outcome

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        check_generate(request)
        call = await self._call(lambda number: Generate(number, request), "messages" if request.messages else "prompt")
        try:
            event: object = None
            while not isinstance(event, Finished):
                event = await call.next()
                assert isinstance(event, Started | Delta | Called | Finished)
                yield event
        finally:
            call.close()

    async def _call(self, message: Callable[[int], ToChild], field: str) -> Call:
        try:
            return await self._connected().call(message)
        except FrameTooLarge:
            raise InvalidRequest("the request is far larger than any model can take", field) from None

    def _connected(self) -> Link:
        if self._link is None or not self._ready.is_set():
            raise EngineUnavailable("the engine is starting: try again in a moment")
        return self._link

    # Supervision.

    async def _supervise(self) -> None:
        deaths = 0
        clock = asyncio.get_running_loop().time
        while not self._stopping:
            began = clock()
            reason = await self._live()
            if self._stopping:
                return
            deaths = 0 if clock() - began > self._settings.steady_s else deaths
            pause_s = min(self._settings.backoff_s * 2**deaths, self._settings.backoff_s_max)
            deaths += 1
            self._restarts += 1
            log.error("the engine ended (%s); starting it again in %.1f s", reason, pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self) -> str:
        """One child from start to end; returns why it ended. Whatever happens, the child is gone afterwards."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = self._child = self._spawn(theirs)
            except OSError as error:
                ours.close()
                return f"it could not be started: {error}"
        self._silent_beats = 0
        link = self._link = await Link.open(ours)
        tasks = [asyncio.create_task(self._listen(link)), asyncio.create_task(self._watch())]
        reason = "stopped"
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reason = " and ".join(task.result() for task in done)
        finally:
            self._ready.clear()
            self._models = ()
            link.close("the engine died: the request was lost")
            for task in tasks:
                task.cancel()
            child.kill()
            try:
                await asyncio.shield(asyncio.to_thread(child.wait))
            finally:
                self._bury()
        return f"{reason}, exit {child.returncode}"

    def _bury(self) -> None:
        """Note what the child was doing when it ended."""
        self._link = self._child = None
        if self._loading and not self._stopping:
            self._strikes[self._loading.digest] += 1
        self._loading = None
        while self._reloads:
            self._answer_reload(EngineDied("the engine died while it was loading"))

    def _answer_reload(self, error: EngineUnavailable | None = None) -> None:
        """Answer whoever asked first, unless they no longer wait."""
        done = self._reloads.popleft()
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        """Standard error is ours: the child says what went wrong, never what was asked."""
        command = [self._python, "-P", "-m", "appliance.engine.child", "--fd", str(theirs.fileno())]
        return subprocess.Popen(  # noqa: S603 - every word of the command is our own
            command,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=child_environment(self._settings.threads),
        )

    async def _listen(self, link: Link) -> str:
        quarantined = tuple(digest for digest, strikes in self._strikes.items() if strikes >= STRIKES)
        try:
            await link.send(configure(self._store, self._settings, quarantined))
            async for news in link.news():
                self._silent_beats = 0
                match news:
                    case Loading():
                        self._loading = news
                    case Loaded():
                        self._take_stock(news)
                    case Beat():
                        pass
        except WireError as error:
            return str(error)
        except EngineUnavailable:
            return "it never listened"
        return "it died"

    def _take_stock(self, loaded: Loaded) -> None:
        first = not self._ready.is_set()
        self._loading = None
        self._models, self._set_aside = loaded.models, loaded.set_aside
        for name, reason in loaded.set_aside:
            log.error("the package %s does not serve: %s", name, reason)
        self._ready.set()
        if not first:
            self._answer_reload()

    async def _watch(self) -> str:
        """Ends when the child has been silent or loading for too long.

        Counted in turns of this loop, not by the clock: when this process was held up, the child is not to blame.
        """
        loading_beats = 0
        while True:
            await asyncio.sleep(self._settings.beat_s)
            self._silent_beats += 1
            loading_beats = loading_beats + 1 if self._loading else 0
            if self._silent_beats > self._settings.patience_beats:
                return "it hung"
            if loading_beats * self._settings.beat_s > self._settings.load_s:
                return "it hung while loading"


def _report(supervisor: asyncio.Task[None]) -> None:
    """Supervision ends only when it is told to; anything else must not go unnoticed."""
    if not supervisor.cancelled() and (error := supervisor.exception()):
        log.critical("the engine is no longer supervised", exc_info=error)


def child_environment(threads: int) -> dict[str, str]:
    """What the child needs and nothing else: no secret of the box reaches the process that runs strangers' models."""
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    root = str(Path(appliance.__file__).parents[1])
    path = os.pathsep.join(part for part in (root, kept.get("PYTHONPATH", "")) if part)
    return kept | {
        "PYTHONPATH": path,
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
