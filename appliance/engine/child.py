"""The engine's child process: `python -m appliance.engine.child --fd N`, started by `EngineProcess` and by nobody else.

Threads: the main one loads packages, one receives, one beats, one waits to be stopped, one per family steps models.
It ends at once when its parent does (end of file on the socket, or another parent in its place) and on SIGTERM once
running calls are done.
"""

import argparse
import functools
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from appliance.engine.messages import (
    Beat,
    Cancel,
    Configure,
    Embed,
    FromChild,
    Generate,
    Loaded,
    Loading,
    Outcome,
    Reload,
    dump,
    from_outcome,
    parse_to_child,
)
from appliance.engine.protocol import (
    Called,
    Delta,
    EmbedResult,
    EngineError,
    EngineUnavailable,
    Overloaded,
    Started,
    UnknownModel,
)
from appliance.engine.served import Package, Served, ServedDecoder, ServedEncoder, load
from appliance.engine.tokens import Tokenizers
from appliance.engine.wire import WireError, encode_frame, receive_frame
from appliance.engine.worker import Stepper, Worker
from models.errors import PackageError
from models.store import Store
from sync.fault import place

EXIT_DONE = 0
EXIT_FAILED = 70
EXIT_PROTOCOL = 76
POLL_S = 0.05

log = logging.getLogger("nukkad.engine.child")


class Child:
    def __init__(self, connection: socket.socket, configure: Configure) -> None:
        self._connection = connection
        self._settings = configure.settings
        self._quarantined = frozenset(configure.quarantined)
        self._store = Store(Path(configure.store))
        self._sending = threading.Lock()
        self._swapping = threading.Lock()  # A call is handed to a stepper before that one retires, or to its successor.
        self._tokenizers = Tokenizers()
        self._served: dict[str, Served] = {}
        self._set_aside: dict[str, str] = {}
        self._calls: dict[int, Served] = {}
        self._handling_since: float | None = None
        self._serving = False
        self._draining = False
        self._tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._workers = {name: Worker(name, self._deliver, _fail) for name in ("decoder", "encoder")}
        self._parent = os.getppid()

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
        # Blocked here and so in every thread made from now on: only the thread that waits for it gets it, at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        for worker in self._workers.values():
            worker.start()
        for target in (self._await_stop, self._receive, self._beat):
            threading.Thread(target=target, name=target.__name__, daemon=True).start()
        self._load()
        self._serving = True
        while self._tasks.get() == "load":
            self._load()
        self._drain()

    def _await_stop(self) -> None:
        signal.sigwait({signal.SIGTERM})
        if not self._serving:
            os._exit(EXIT_DONE)  # Nothing is under way that could be finished.
        self._tasks.put("stop")

    def _drain(self) -> None:
        self._draining = True
        end = time.monotonic() + self._settings.drain_s
        while self._calls and time.monotonic() < end:
            time.sleep(POLL_S)
        os._exit(EXIT_DONE)  # Threads inside ONNX Runtime make an orderly interpreter exit crash.

    # Packages.

    def _load(self) -> None:
        """Serve what the store says is active. A package that cannot is set aside; one already served stays."""
        self._set_aside = {}
        wanted: dict[str, Package] = {}
        for name in self._store.names():
            try:
                wanted[name] = self._store.current(name)
            except PackageError as error:
                self._set_aside[name] = str(error)
        for name in [name for name in self._served if name not in wanted and name not in self._set_aside]:
            self._swap(name, None)
        for name, package in wanted.items():
            if name not in self._served or self._served[name].info.digest != package.digest:
                self._open(name, package)
        self._send(Loaded(tuple(served.info for served in self._served.values()), tuple(self._set_aside.items())))

    def _open(self, name: str, package: Package) -> None:
        if package.digest in self._quarantined:
            self._set_aside[name] = "it crashed the engine while loading: roll back or activate another version"
            return
        self._send(Loading(name, package.digest))
        try:
            served = load(package, self._settings, self._tokenizers)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one package, the others serve
            self._set_aside[name] = f"{type(error).__name__}: {error}"
            return
        self._worker(served).add(served.stepper)
        self._swap(name, served)

    def _swap(self, name: str, served: Served | None) -> None:
        """Calls from now on go to `served`, or to nobody; those already handed over finish where they are."""
        with self._swapping:
            before = self._served.pop(name, None)
            if served:
                self._served[name] = served
            if before:
                self._worker(before).retire(before.stepper)

    # Calls.

    def _receive(self) -> None:
        try:
            while True:
                message = parse_to_child(receive_frame(self._connection))
                self._handling_since = time.monotonic()
                self._handle(message)
                self._handling_since = None
        except (EOFError, ConnectionError):
            os._exit(EXIT_DONE)
        except WireError as error:
            log.error("%s", error)
            os._exit(EXIT_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - the edge of the process
            _fail(error)

    def _handle(self, message: object) -> None:
        match message:
            case Generate() | Embed():
                try:
                    with self._swapping:
                        self._submit(message)
                except EngineError as error:
                    self._send(from_outcome(message.call, error))
            case Cancel(call):
                if served := self._calls.pop(call, None):
                    self._worker(served).put(functools.partial(served.stepper.cancel, call))
            case Reload():
                self._tasks.put("load")
            case _:
                raise WireError("configured twice")

    def _submit(self, message: Generate | Embed) -> None:
        if self._draining:
            raise EngineUnavailable("the engine is stopping: try again in a moment")
        served = self._find(message)
        waiting = sum(other is served for other in list(self._calls.values()))
        if waiting >= self._settings.slots + self._settings.queue:
            raise Overloaded("the queue is full: try again later")
        self._calls[message.call] = served
        try:
            work = served.prepare(message.call, message.request)  # type: ignore[arg-type]  # _find matched the two
        except BaseException:
            del self._calls[message.call]
            raise
        stepper: Stepper = served.stepper
        self._worker(served).put(functools.partial(stepper.submit, work))

    def _find(self, message: Generate | Embed) -> Served:
        name = message.request.model
        served = self._served.get(name)
        if served is None:
            reason = f" ({self._set_aside[name]})" if name in self._set_aside else ""
            raise UnknownModel(f"no model called {name!r} is serving{reason}", "model")
        if isinstance(message, Embed):
            fits, task = isinstance(served, ServedEncoder), "embedding"
        else:
            fits, task = isinstance(served, ServedDecoder), "chat" if message.request.messages else "completion"
        if not fits or task not in served.info.tasks:
            raise UnknownModel(f"the model {name!r} does not do {task}", "model")
        return served

    def _worker(self, served: Served) -> Worker:
        return self._workers[served.info.family]

    # To the parent.

    def _deliver(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for call, outcome in outcomes:
            if not isinstance(outcome, Started | Delta | Called):
                self._calls.pop(call, None)
            if isinstance(outcome, EmbedResult):  # Many large answers of one step would not fit one frame together.
                self._send(from_outcome(call, outcome))
        if rest := [each for each in outcomes if not isinstance(each[1], EmbedResult)]:
            self._send(*(from_outcome(call, outcome) for call, outcome in rest))

    def _send(self, *messages: FromChild) -> None:
        frame = encode_frame([dump(message) for message in messages])
        with self._sending:
            try:
                self._connection.sendall(frame)
            except OSError:
                os._exit(EXIT_DONE)  # Nobody is there to hear anything.

    def _beat(self) -> None:
        """Say that nothing is stuck, neither a step nor the intake of calls.

        It also finds out that the parent is gone while something else holds its socket open.
        """
        while os.getppid() == self._parent:
            since = self._handling_since
            handling_s = time.monotonic() - since if since else 0.0
            if max(handling_s, *(worker.step_s() for worker in self._workers.values())) < self._settings.step_s:
                self._send(Beat())
            time.sleep(self._settings.beat_s)
        os._exit(EXIT_DONE)


def _fail(error: Exception) -> None:
    """End the process. The error's text may quote a request, so only its type and place are told."""
    log.error("%s", place(error))
    os._exit(EXIT_FAILED)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="appliance.engine.child")
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the socket to the parent")
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
    connection = socket.socket(fileno=parser.parse_args(arguments).fd)
    configure = parse_to_child(receive_frame(connection))
    if not isinstance(configure, Configure):
        raise WireError("the first message must configure")
    Child(connection, configure).run()


if __name__ == "__main__":
    main(sys.argv[1:])
