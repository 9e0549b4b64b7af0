from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.answer import Answer, Characters
from appliance.engine.cache import Cache
from appliance.engine.decoder import Decoder, Row, plain_tile
from appliance.engine.kernel_decoder import KernelDecoder, kernel_tile
from appliance.engine.prefixes import Prefixes
from appliance.engine.protocol import Delta, EngineUnavailable, Finished, Sampling, Started
from appliance.engine.sampling import Sampler
from appliance.engine.scheduler import Events, Generation, Scheduler, Steps
from appliance.engine.session import open_session
from kernels.library import find_library
from tests.support import tiny_kernel_decoder as kernels
from tests.support.tiny_models import CONTEXT, HEAD_DIM, KV_HEADS, LAYERS, write_chat

VOCAB = 64
STOP = 63
SEEDED = Sampling(temperature=1.0, seed=5)
GREEDY = Sampling(temperature=0)


class CountingSteps:
    """Answers every row with its last token plus one, and notes what each run was asked for."""

    def __init__(self, mixes: bool = True) -> None:
        self.mixes = mixes
        self.runs: list[list[Row]] = []

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        self.runs.append(list(rows))
        last = [token for row in rows for token in row.tokens[len(row.tokens) - row.wanted :]]
        logits = np.zeros((len(last), VOCAB), dtype=np.float32)
        for place, token in enumerate(last):
            logits[place, (token + 1) % VOCAB] = 1
        return logits


class Rows:
    """A cache that only notes what happens to it."""

    bytes_per_token = 1

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.copied: list[tuple[int, int, int]] = []
        self.forgotten: list[tuple[int, int]] = []

    def copy(self, source: int, target: int, tokens: int) -> None:
        self.copied.append((source, target, tokens))

    def forget(self, slot: int, keep: int = 0) -> None:
        self.forgotten.append((slot, keep))


def room(slots: int, budget: int = 10_000) -> Prefixes:
    return Prefixes(Rows(slots), budget)


def generation(
    call: int,
    prompt: Sequence[int],
    limit: int = 4,
    sampling: Sampling = GREEDY,
    owner: str = "",
    guesses: bool = False,
) -> Generation:
    characters = Characters(lambda tokens: "".join(f"{token}," for token in tokens))
    answer, stops = Answer(characters, ()), frozenset({STOP})
    return Generation(call, list(prompt), limit, Sampler(sampling, call), answer, stops, owner, guesses)


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
    scheduler = Scheduler(CountingSteps(), room(1), prefill_tokens=8)
    scheduler.submit(generation(1, [10, 11], limit=3))
    started, *deltas, finished = run_out(scheduler)[1]
    assert started == Started(2)
    assert deltas == [Delta("12,", 1), Delta("13,", 1), Delta("14,", 1)]
    assert finished == Finished("length", 2, 3)


def test_a_stop_token_ends_it_and_counts_but_shows_nothing() -> None:
    scheduler = Scheduler(CountingSteps(), room(1), prefill_tokens=8)
    scheduler.submit(generation(1, [STOP - 2], limit=9))
    assert run_out(scheduler)[1] == [Started(1), Delta(f"{STOP - 1},", 1), Finished("stop", 1, 2)]


def test_a_stop_token_at_the_limit_is_a_stop() -> None:
    scheduler = Scheduler(CountingSteps(), room(1), prefill_tokens=8)
    scheduler.submit(generation(1, [STOP - 1], limit=1))
    assert run_out(scheduler)[1] == [Started(1), Finished("stop", 1, 1)]


def test_those_who_wait_are_admitted_in_order_as_slots_come_free() -> None:
    steps = CountingSteps()
    scheduler = Scheduler(steps, room(2), prefill_tokens=8)
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
    scheduler = Scheduler(steps, room(2), prefill_tokens=4)
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
    scheduler = Scheduler(CountingSteps(), room(2), prefill_tokens=4)
    scheduler.submit(generation(1, [1] * 400, limit=1))
    scheduler.submit(generation(2, [1], limit=1))
    assert (2, Finished("length", 1, 1)) in scheduler.step()


def test_a_cancelled_call_frees_its_slot_before_the_next_step() -> None:
    prefixes = room(1)
    scheduler = Scheduler(CountingSteps(), prefixes, prefill_tokens=4)
    scheduler.submit(generation(1, [1], limit=50))
    scheduler.submit(generation(2, [1], limit=50))
    scheduler.step()
    scheduler.cancel(1)
    assert prefixes.busy == 0
    assert (2, Started(1)) in scheduler.step()


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_call_can_be_cancelled_waiting_in_its_prompt_and_answering(steps: int) -> None:
    prefixes = room(1)
    scheduler = Scheduler(CountingSteps(), prefixes, prefill_tokens=4)
    scheduler.submit(generation(1, [1] * 8, limit=50))
    for _ in range(steps):
        scheduler.step()
    scheduler.cancel(1)
    scheduler.cancel(1)
    assert not scheduler.busy
    assert prefixes.busy == 0
    assert scheduler.step() == []


def test_logits_that_are_no_numbers_cost_only_their_own_call() -> None:
    class OneBadRow(CountingSteps):
        def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
            logits = super().run(rows)
            logits[[row.tokens[-1] == 13 for row in rows]] = np.nan  # Each row wants one.
            return logits

    prefixes = room(2)
    scheduler = Scheduler(OneBadRow(), prefixes, prefill_tokens=4)
    scheduler.submit(generation(1, [12], limit=5))
    scheduler.submit(generation(2, [20], limit=5))
    events = run_out(scheduler)
    assert isinstance(events[1][-1], EngineUnavailable)
    assert events[2][-1] == Finished("length", 1, 5)
    assert prefixes.busy == 0


def test_an_owner_with_many_calls_lets_the_others_have_their_turn() -> None:
    scheduler = Scheduler(CountingSteps(), room(1), prefill_tokens=8)
    for call in range(4):
        scheduler.submit(generation(call, [1], limit=1, owner="busy"))
    scheduler.submit(generation(9, [1], limit=1, owner="quiet"))
    order = []
    while scheduler.busy:
        order += [call for call, event in scheduler.step() if isinstance(event, Started)]
    assert order == [0, 9, 1, 2, 3]


def test_short_prompts_come_before_a_long_one_but_do_not_starve_it() -> None:
    steps = CountingSteps()
    scheduler = Scheduler(steps, room(8), prefill_tokens=4)
    scheduler.submit(generation(0, [1] * 40, limit=1))
    done = None
    for step in range(200):
        scheduler.submit(generation(step + 1, [2, 3, 4, 5], limit=1, owner=str(step)))
        if any(call == 0 and isinstance(event, Finished) for call, event in scheduler.step()):
            done = step
            break
    assert done is not None
    assert len(steps.runs[0]) == 1
    assert steps.runs[0][0].tokens == [2, 3, 4, 5]


def test_prompts_and_answers_share_a_run_where_the_decoder_mixes() -> None:
    for mixes, runs in ((True, 2), (False, 3)):
        steps = CountingSteps(mixes)
        scheduler = Scheduler(steps, room(2), prefill_tokens=8)
        scheduler.submit(generation(1, [1], limit=9))
        scheduler.step()
        scheduler.submit(generation(2, [1], limit=9))
        scheduler.step()
        assert len(steps.runs) == runs


def test_the_same_prompt_asked_several_times_at_once_is_read_once() -> None:
    steps = CountingSteps()
    scheduler = Scheduler(steps, room(4), prefill_tokens=50)
    for call in range(3):
        scheduler.submit(generation(call, [1] * 100, limit=3))
    events = run_out(scheduler)
    assert [events[call][0] for call in range(3)] == [Started(100), Started(100, 99), Started(100, 99)]
    assert sum(len(row.tokens) for rows in steps.runs for row in rows) == 100 + 2 * 1 + 3 * 2


def test_guesses_that_are_right_come_at_once_and_wrong_ones_cost_nothing_but_a_row() -> None:
    """The answer goes on counting; the prompt has counted that way before."""
    answers = []
    runs = []
    for guesses in (False, True):
        steps = CountingSteps()
        scheduler = Scheduler(steps, room(1), prefill_tokens=50)
        scheduler.submit(generation(1, [*range(10, 40), 62, 12, 13, 14], limit=30, guesses=guesses))
        events = run_out(scheduler)[1]
        answers.append([event for event in events if not isinstance(event, Started)])
        runs.append(len(steps.runs))
    assert answers[0] == answers[1]
    assert runs[1] < runs[0] / 2


def test_guesses_never_go_beyond_the_limit() -> None:
    steps = CountingSteps()
    scheduler = Scheduler(steps, room(1), prefill_tokens=50)
    scheduler.submit(generation(1, [*range(10, 40), 62, 12, 13, 14], limit=4, guesses=True))
    assert run_out(scheduler)[1][-1] == Finished("length", 34, 4)
    assert max(row.start + len(row.tokens) for rows in steps.runs for row in rows) <= 34 + 4


# With real graphs: what a sequence is answered must not depend on who is beside it.


@pytest.fixture(scope="module", params=["plain", "kernels"])
def steps(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Steps, Cache]:
    """One decoder for many examples: what earlier ones leave in the cache must not show either."""
    folder = tmp_path_factory.mktemp("scheduler")
    if request.param == "plain":
        session = open_session(write_chat(folder / "chat") / "model.fp32.onnx", "CPUExecutionProvider", 1)
        cache = Cache(LAYERS, 4, KV_HEADS, CONTEXT, plain_tile(HEAD_DIM))
        return Decoder(session, cache, 261), cache
    graph = kernels.save_kernel_decoder(folder / "model.onnx", 256)
    session = open_session(graph, "CPUExecutionProvider", 1, find_library())
    cache = Cache(kernels.LAYERS, 4, kernels.KV_HEADS, CONTEXT, kernel_tile(kernels.HEAD_DIM))
    return KernelDecoder(session, cache, 256), cache


def real_scheduler(steps: tuple[Steps, Cache], budget_tokens: int = 4 * CONTEXT) -> Scheduler:
    decoder, cache = steps
    step = 1 if decoder.mixes else 8
    return Scheduler(decoder, Prefixes(cache, budget_tokens * cache.bytes_per_token, step), prefill_tokens=8)


# Few different tokens and many common beginnings: prefixes are shared and guesses often right.
prompts = st.tuples(st.integers(0, 40), st.lists(st.integers(0, 5), max_size=12)).map(
    lambda parts: [*([1, 2, 3, 4] * 10)[: parts[0]], 7, *parts[1]]
)
call_parts = st.tuples(
    prompts, st.integers(1, 20), st.integers(0, 12), st.booleans(), st.sampled_from("ab"), st.booleans()
)


@settings(max_examples=40, deadline=None)
@given(
    calls=st.lists(call_parts, min_size=2, max_size=8),
    cancelled=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 30)), max_size=3),
    budget=st.integers(CONTEXT, 4 * CONTEXT),
)
def test_batched_equals_alone_token_for_token(
    steps: tuple[Steps, Cache],
    calls: list[tuple[list[int], int, int, bool, str, bool]],
    cancelled: set[tuple[int, int]],
    budget: int,
) -> None:
    """Calls come at different times, more than there are slots, some with a seed, some greedy; some are cancelled."""

    def make(call: int) -> Generation:
        prompt, limit, _, sampled, owner, guesses = calls[call]
        return generation(call, prompt, limit, SEEDED if sampled else GREEDY, owner, guesses)

    def without_start(events: list[object]) -> list[object]:
        return [event for event in events if not isinstance(event, Started)]

    alone: dict[int, list[object]] = {}
    for call in range(len(calls)):
        fresh = real_scheduler(steps)
        fresh.submit(make(call))
        alone[call] = without_start(run_out(fresh)[call])

    shared = real_scheduler(steps, budget)
    together: dict[int, list[object]] = {}
    waiting = sorted(range(len(calls)), key=lambda call: calls[call][2])
    gone: set[int] = set()
    step = 0
    while waiting or shared.busy:
        while waiting and calls[waiting[0]][2] <= step:
            shared.submit(make(waiting.pop(0)))
        for call, when in cancelled:
            if when == step and call < len(calls) and call not in waiting:
                shared.cancel(call)
                gone.add(call)
        for call, event in shared.step():
            together.setdefault(call, []).append(event)
        step += 1
    for call, expected in alone.items():
        found = without_start(together.get(call, []))
        assert found == (expected[: len(found)] if call in gone else expected)
    assert shared._prefixes.busy == 0
    assert shared._prefixes.bytes_held <= budget * steps[1].bytes_per_token


def test_a_conversation_goes_on_from_where_it_was(steps: tuple[Steps, Cache]) -> None:
    """The second turn's answer is that of a box that never saw the first."""
    first = list(b"The shop opens at")
    scheduler = real_scheduler(steps)
    scheduler.submit(generation(1, first, 12))
    events = run_out(scheduler)[1]
    answer = [int(number) for number in text_of(events).split(",")[:-1]]
    second = [*first, *answer, *b" and closes at"]
    scheduler.submit(generation(2, second, 12))
    again = run_out(scheduler)[2]
    fresh = real_scheduler(steps)
    fresh.submit(generation(2, second, 12))
    assert text_of(again) == text_of(run_out(fresh)[2])
    started = again[0]
    assert isinstance(started, Started)
    assert started.cached_tokens == (len(first) + 12 - 1 if steps[0].mixes else 16)


def test_a_prompt_in_chunks_is_read_as_one(steps: tuple[Steps, Cache]) -> None:
    decoder, _ = steps
    prompt = list(b"a prompt that is longer than a chunk")
    whole = decoder.run([Row(0, prompt, 0)])[0].copy()
    for start in range(0, len(prompt), 5):
        logits = decoder.run([Row(1, prompt[start : start + 5], start)])[0]
    assert np.array_equal(logits, whole) if decoder.mixes else np.allclose(logits, whole, atol=1e-4)
