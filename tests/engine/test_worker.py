import queue
import threading
from collections.abc import Sequence
from typing import Any

from appliance.engine.messages import Outcome
from appliance.engine.protocol import Started
from appliance.engine.worker import Worker

WAIT_S = 30


class Countdown:
    """Busy for as many steps as were submitted; every step says so."""

    def __init__(self) -> None:
        self.left = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    @property
    def busy(self) -> bool:
        return self.left > 0

    def submit(self, work: Any, /) -> None:
        self.left += work

    def cancel(self, call: int, /) -> None:
        self.left = 0

    def step(self) -> Sequence[tuple[int, Outcome]]:
        self.entered.set()
        assert self.go_on.wait(WAIT_S)
        if not self.left:
            return []
        self.left -= 1
        return [(self.left, Started(1))]


class Bench:
    def __init__(self) -> None:
        self.sent: queue.Queue[int] = queue.Queue()
        self.failures: queue.Queue[Exception] = queue.Queue()
        self.worker = Worker("test", self._send, self.failures.put)
        self.worker.start()

    def _send(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        for call, _ in outcomes:
            self.sent.put(call)

    def submit(self, *work: tuple[Countdown, int]) -> None:
        """All in one command, so that no step comes between."""

        def command() -> None:
            for model, steps in work:
                model.submit(steps)

        self.worker.put(command)

    def next(self) -> int:
        return self.sent.get(timeout=WAIT_S)


def test_models_take_turns() -> None:
    bench, one, two = Bench(), Countdown(), Countdown()
    bench.worker.add(one)
    bench.worker.add(two)
    bench.submit((one, 3), (two, 3))
    assert [bench.next() for _ in range(6)] == [2, 2, 1, 1, 0, 0]


def test_a_command_takes_effect_before_the_next_step() -> None:
    bench, model = Bench(), Countdown()
    bench.worker.add(model)
    model.go_on.clear()
    bench.worker.put(lambda: model.submit(5))
    assert model.entered.wait(WAIT_S)
    assert bench.worker.step_s() > 0
    bench.worker.put(lambda: model.cancel(1))
    model.go_on.set()
    assert bench.next() == 4
    bench.worker.put(lambda: model.submit(1))
    assert bench.next() == 0


def test_a_retired_model_finishes_what_it_has() -> None:
    bench, model, other = Bench(), Countdown(), Countdown()
    bench.worker.add(model)
    bench.worker.put(lambda: model.submit(3))
    bench.worker.retire(model)
    assert [bench.next() for _ in range(3)] == [2, 1, 0]
    bench.worker.add(other)
    bench.submit((model, 1), (other, 8))
    assert [bench.next() for _ in range(8)] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert model.left == 1, "nobody steps it any more"


def test_an_exception_that_no_step_may_raise_is_reported() -> None:
    class Broken(Countdown):
        def step(self) -> Sequence[tuple[int, Outcome]]:
            raise MemoryError

    bench, model = Bench(), Broken()
    bench.worker.add(model)
    bench.worker.put(lambda: model.submit(1))
    assert isinstance(bench.failures.get(timeout=WAIT_S), MemoryError)
