from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.answer import Answer, Characters
from appliance.engine.cache import Cache, Slots
from appliance.engine.decoder import Decoder, Row, plain_tile
from appliance.engine.protocol import Delta, EngineUnavailable, Finished, Sampling, Started
from appliance.engine.sampling import Sampler
from appliance.engine.scheduler import Events, Generation, Scheduler
from appliance.engine.session import open_session
from tests.support.tiny_models import CONTEXT, HEAD_DIM, KV_HEADS, LAYERS, write_chat

VOCAB = 64
STOP = 63
SEEDED = Sampling(temperature=1.0, seed=5)
GREEDY = Sampling(temperature=0)


class CountingSteps:
    """Answers every row with its last token plus one, and notes what each run was asked for."""

    def __init__(self) -> None:
        self.runs: list[list[Row]] = []

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        self.runs.append(list(rows))
        logits = np.zeros((len(rows), VOCAB), dtype=np.float32)
        for place, row in enumerate(rows):
            logits[place, (row.tokens[-1] + 1) % VOCAB] = 1
        return logits


def generation(call: int, prompt: Sequence[int], limit: int = 4, sampling: Sampling = GREEDY) -> Generation:
    characters = Characters(lambda tokens: "".join(f"{token}," for token in tokens))
    return Generation(call, list(prompt), limit, Sampler(sampling, call), Answer(characters, ()), frozenset({STOP}))


def run_out(scheduler: Scheduler, steps: int = 10_000) -> dict[int, list[object]]:
    """Step until nothing is left; events by call."""
    events: dict[int, list[object]] = {}
    for _ in range(steps):
        if not scheduler.busy:
            return events
        for call, event in scheduler.step():
            events.setdefault(call, []).append(event)
    raise AssertionError("never done")


def text_of(events: Events | list[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_a_generation_runs_from_its_start_to_its_limit() -> None:
    scheduler = Scheduler(CountingSteps(), Slots(1), prefill_tokens=8)
    scheduler.submit(generation(1, [10, 11], limit=3))
    started, *deltas, finished = run_out(scheduler)[1]
    assert started == Started(2)
    assert deltas == [Delta("12,", 1), Delta("13,", 1), Delta("14,", 1)]
    assert finished == Finished("length", 2, 3)


def test_a_stop_token_ends_it_and_counts_but_shows_nothing() -> None:
    scheduler = Scheduler(CountingSteps(), Slots(1), prefill_tokens=8)
    scheduler.submit(generation(1, [STOP - 2], limit=9))
    assert run_out(scheduler)[1] == [Started(1), Delta(f"{STOP - 1},", 1), Finished("stop", 1, 2)]


def test_a_stop_token_at_the_limit_is_a_stop() -> None:
    scheduler = Scheduler(CountingSteps(), Slots(1), prefill_tokens=8)
    scheduler.submit(generation(1, [STOP - 1], limit=1))
    assert run_out(scheduler)[1] == [Started(1), Finished("stop", 1, 1)]


def test_those_who_wait_are_admitted_in_order_as_slots_come_free() -> None:
    steps = CountingSteps()
    scheduler = Scheduler(steps, Slots(2), prefill_tokens=8)
    for call in range(5):
        scheduler.submit(generation(call, [1], limit=call + 1))
    order = []
    while scheduler.busy:
        order += [call for call, event in scheduler.step() if isinstance(event, Started)]
    assert order == [0, 1, 2, 3, 4]
    assert {row.slot for rows in steps.runs for row in rows} == {0, 1}


def test_a_long_prompt_costs_the_others_one_chunk_a_step() -> None:
    """Between any two tokens of an answer lies at most one chunk of a prompt."""
    steps = CountingSteps()
    scheduler = Scheduler(steps, Slots(2), prefill_tokens=4)
    scheduler.submit(generation(1, [1], limit=20))
    scheduler.step()
    scheduler.submit(generation(2, [1] * 40, limit=1))
    answered = 0
    while scheduler.busy:
        events = scheduler.step()
        answered += sum(call == 1 and isinstance(event, Delta) for call, event in events)
        if any(call == 2 and isinstance(event, Finished) for call, event in events):
            break
    assert answered == 10, "forty prompt tokens in ten chunks: one step of the other answer for each"
    assert max(len(row.tokens) for rows in steps.runs for row in rows) == 4


def test_prompts_take_turns_so_a_short_one_does_not_wait_for_a_long_one() -> None:
    scheduler = Scheduler(CountingSteps(), Slots(2), prefill_tokens=4)
    scheduler.submit(generation(1, [1] * 400, limit=1))
    scheduler.submit(generation(2, [1], limit=1))
    scheduler.step()
    events = scheduler.step()
    assert (2, Finished("length", 1, 1)) in events


def test_a_cancelled_call_frees_its_slot_before_the_next_step() -> None:
    slots = Slots(1)
    scheduler = Scheduler(CountingSteps(), slots, prefill_tokens=4)
    scheduler.submit(generation(1, [1], limit=50))
    scheduler.submit(generation(2, [1], limit=50))
    scheduler.step()
    scheduler.cancel(1)
    assert slots.free == 1
    assert (2, Started(1)) in scheduler.step()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_call_can_be_cancelled_waiting_in_its_prompt_and_answering(steps: int) -> None:
    slots = Slots(1)
    scheduler = Scheduler(CountingSteps(), slots, prefill_tokens=4)
    scheduler.submit(generation(1, [1] * 8, limit=50))
    for _ in range(steps):
        scheduler.step()
    scheduler.cancel(1)
    scheduler.cancel(1)
    assert not scheduler.busy
    assert slots.free == 1
    assert scheduler.step() == []


def test_logits_that_are_no_numbers_cost_only_their_own_call() -> None:
    class OneBadRow(CountingSteps):
        def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
            logits = super().run(rows)
            for place, row in enumerate(rows):
                if row.tokens[-1] == 13:
                    logits[place] = np.nan
            return logits

    slots = Slots(2)
    scheduler = Scheduler(OneBadRow(), slots, prefill_tokens=4)
    scheduler.submit(generation(1, [12], limit=5))
    scheduler.submit(generation(2, [20], limit=5))
    events = run_out(scheduler)
    assert isinstance(events[1][-1], EngineUnavailable)
    assert events[2][-1] == Finished("length", 1, 5)
    assert slots.free == 2


# With a real graph: what a sequence is answered must not depend on who is beside it.


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat(tmp_path_factory.mktemp("scheduler") / "chat") / "model.fp32.onnx"


def real_scheduler(graph: Path, slots: int) -> Scheduler:
    cache = Cache(LAYERS, slots, KV_HEADS, CONTEXT, plain_tile(HEAD_DIM))
    decoder = Decoder(open_session(graph, "CPUExecutionProvider", 1), cache, 261)
    return Scheduler(decoder, Slots(slots), prefill_tokens=8)


@pytest.fixture(scope="module")
def shared(graph: Path) -> Scheduler:
    """One scheduler for many examples: what earlier ones leave in the cache must not show either."""
    return real_scheduler(graph, 4)


prompts = st.lists(st.integers(0, 255), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(prompts, st.integers(1, 20), st.integers(0, 6), st.booleans()), min_size=2, max_size=7))
def test_batched_equals_alone_token_for_token(shared: Scheduler, calls: list[tuple[list[int], int, int, bool]]) -> None:
    """Calls come in at different times, more than there are slots; some sample with a seed, some are greedy."""

    def make(call: int) -> Generation:
        prompt, limit, _, sampled = calls[call]
        return generation(call, prompt, limit, SEEDED if sampled else GREEDY)

    alone: dict[int, list[object]] = {}
    for call in range(len(calls)):
        shared.submit(make(call))
        alone |= run_out(shared)

    together: dict[int, list[object]] = {}
    waiting = sorted(range(len(calls)), key=lambda call: calls[call][2])
    step = 0
    while waiting or shared.busy:
        while waiting and calls[waiting[0]][2] <= step:
            shared.submit(make(waiting.pop(0)))
        for call, event in shared.step():
            together.setdefault(call, []).append(event)
        step += 1
    assert together == alone


def test_a_slot_taken_over_in_the_middle_gives_the_same_answer(graph: Path) -> None:
    prompt = list(b"The shop opens at nine")
    fresh = real_scheduler(graph, 1)
    fresh.submit(generation(1, prompt, 20))
    expected = text_of(run_out(fresh)[1])

    used = real_scheduler(graph, 1)
    used.submit(generation(2, range(100), 20))
    for _ in range(18):
        used.step()
    used.cancel(2)
    used.submit(generation(1, prompt, 20))
    assert text_of(run_out(used)[1]) == expected


def test_a_prompt_in_chunks_is_read_as_one(graph: Path) -> None:
    session = open_session(graph, "CPUExecutionProvider", 1)
    prompt = list(b"a prompt that is longer than a chunk")
    whole = Decoder(session, Cache(LAYERS, 1, KV_HEADS, CONTEXT, plain_tile(HEAD_DIM)), 261).run([Row(0, prompt, 0)])[0]
    decoder = Decoder(session, Cache(LAYERS, 1, KV_HEADS, CONTEXT, plain_tile(HEAD_DIM)), 261)
    for start in range(0, len(prompt), 5):
        logits = decoder.run([Row(0, prompt[start : start + 5], start)])[0]
    assert np.allclose(logits, whole, atol=1e-4)
