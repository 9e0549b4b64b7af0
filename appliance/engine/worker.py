"""The thread that steps the models of one family, turn by turn."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from appliance.engine.messages import Outcome

Send = Callable[[Sequence[tuple[int, Outcome]]], None]


class Stepper(Protocol):
    """A scheduler or a batcher: touched by the worker's thread only."""

    @property
    def busy(self) -> bool: ...

    def submit(self, work: Any, /) -> None: ...

    def cancel(self, call: int, /) -> None: ...

    def step(self) -> Sequence[tuple[int, Outcome]]: ...


class Worker:
    """Other threads hand it commands by `put`; a command takes effect before the next step.

    `on_failure` is called with an exception that no step may raise: the caller ends the process, because nothing is
    known about the state of its models any more.
    """

    def __init__(self, name: str, send: Send, on_failure: Callable[[Exception], None]) -> None:
        self._send = send
        self._on_failure = on_failure
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._steppers: list[Stepper] = []
        self._retiring: list[Stepper] = []
        self._began: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, command: Callable[[], None]) -> None:
        self._commands.put(command)

    def add(self, stepper: Stepper) -> None:
        self.put(lambda: self._steppers.append(stepper))

    def retire(self, stepper: Stepper) -> None:
        """Let it finish what it has, then forget it."""
        self.put(lambda: self._retiring.append(stepper))

    def step_s(self) -> float:
        """How long the step under way has taken so far; 0 between steps."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def _run(self) -> None:
        try:
            while True:
                self._turn()
        except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, the child must end
            self._on_failure(error)

    def _turn(self) -> None:
        busy = [stepper for stepper in self._steppers if stepper.busy]
        if not busy:
            self._commands.get()()
        while not self._commands.empty():
            self._commands.get()()
        for stepper in busy:
            self._began = time.monotonic()
            outcomes = stepper.step()
            self._began = None
            if outcomes:
                self._send(outcomes)
        for stepper in [stepper for stepper in self._retiring if not stepper.busy]:
            self._retiring.remove(stepper)
            self._steppers.remove(stepper)
