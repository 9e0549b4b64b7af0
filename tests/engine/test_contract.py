"""The promises of `Engine`, kept by every implementation: the fake that other rooms test with, and the real one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from appliance.engine.protocol import (
    Delta,
    EmbedRequest,
    Engine,
    EngineHealth,
    Finished,
    GenerateEvent,
    GenerateRequest,
    InvalidRequest,
    Message,
    Overloaded,
    Sampling,
    Started,
    TooLong,
    UnknownModel,
)
from tests.engine.conftest import running
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL, FakeEngine

pytestmark = pytest.mark.asyncio(loop_scope="module")  # One engine answers all of it, as on a box.

WORDS = "one two three four five six seven eight nine ten"
GREEDY = Sampling(temperature=0)


@dataclass(frozen=True)
class Case:
    engine: Engine
    chat: str
    embed: str

    def ask(
        self,
        text: str = WORDS,
        max_tokens: int | None = 6,
        stop: tuple[str, ...] = (),
        sampling: Sampling = GREEDY,
    ) -> AsyncGenerator[GenerateEvent, None]:
        messages = (Message("user", text),)
        return self.engine.generate(GenerateRequest(self.chat, max_tokens, messages, None, sampling, stop))


@asynccontextmanager
async def fake() -> AsyncIterator[Case]:
    yield Case(FakeEngine(slots=2, queue=2, context_tokens=128), CHAT_MODEL, EMBED_MODEL)


@asynccontextmanager
async def real(packages: Path) -> AsyncIterator[Case]:
    async with running(packages) as engine:
        yield Case(engine, "tiny-chat", "tiny-embed")


@pytest_asyncio.fixture(params=["fake", "process"], scope="module", loop_scope="module")
async def case(request: pytest.FixtureRequest, packages: Path) -> AsyncIterator[Case]:
    made: AbstractAsyncContextManager[Case] = fake() if request.param == "fake" else real(packages)
    async with made as case:
        yield case


async def collect(events: AsyncGenerator[GenerateEvent, None]) -> list[GenerateEvent]:
    return [event async for event in events]


def text_of(events: list[GenerateEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def settled(engine: Engine) -> EngineHealth:
    """Health once nothing is under way any more."""
    health = await engine.health()
    for _ in range(500):
        if not health.running and not health.queued:
            return health
        await asyncio.sleep(0.02)
        health = await engine.health()
    raise AssertionError(f"still busy: {health}")


async def test_models_and_health_say_what_serves(case: Case) -> None:
    models = {model.name: model for model in await case.engine.models()}
    assert models[case.chat].family == "decoder"
    assert models[case.embed].tasks == ("embedding",)
    assert all(len(model.digest) == 32 and model.context_tokens > 0 for model in models.values())
    health = await case.engine.health()
    assert health.ready
    assert health.pid
    assert health.slots >= 2
    assert (health.queued, health.running, health.restarts, health.set_aside) == (0, 0, 0, ())


async def test_a_generation_is_a_start_some_text_and_an_end(case: Case) -> None:
    first, *middle, last = await collect(case.ask())
    assert isinstance(first, Started)
    assert all(isinstance(event, Delta) for event in middle)
    assert middle
    assert isinstance(last, Finished)
    assert last.prompt_tokens == first.prompt_tokens > 0
    assert sum(event.tokens for event in middle if isinstance(event, Delta)) <= last.completion_tokens


async def test_max_tokens_ends_it(case: Case) -> None:
    last = (await collect(case.ask(max_tokens=5)))[-1]
    assert isinstance(last, Finished)
    assert (last.reason, last.completion_tokens) == ("length", 5)


async def test_a_prompt_may_come_as_plain_text(case: Case) -> None:
    events = await collect(case.engine.generate(GenerateRequest(case.chat, 5, prompt=WORDS, sampling=GREEDY)))
    assert isinstance(events[0], Started)
    assert text_of(events)


async def test_the_answer_does_not_depend_on_the_company(case: Case) -> None:
    asked = [
        (WORDS, GREEDY),
        ("seven six", Sampling(seed=3)),
        (WORDS[5:], Sampling(0.7, 0.9, 20, seed=9)),
        ("a b c", GREEDY),
    ]
    alone = [await collect(case.ask(text, 2, sampling=sampling)) for text, sampling in asked]
    together = await asyncio.gather(*(collect(case.ask(text, 2, sampling=sampling)) for text, sampling in asked))
    # Where the prompt was read from is another matter: what somebody else asked before may have left its rows.
    assert [events[1:] for events in together] == [events[1:] for events in alone]


async def test_a_stop_string_is_not_shown_nor_anything_after_it(case: Case) -> None:
    whole = text_of(await collect(case.ask()))
    stop = whole[2:4]
    events = await collect(case.ask(stop=(stop, "never in it")))
    assert text_of(events) == whole[: whole.find(stop)]
    last = events[-1]
    assert isinstance(last, Finished)
    assert last.reason == "stop"


@pytest.mark.parametrize(
    ("field", "text", "max_tokens"), [("messages", "word " * 5000, None), ("max_tokens", WORDS, 5000)]
)
async def test_what_does_not_fit_is_refused_and_not_cut(
    case: Case, field: str, text: str, max_tokens: int | None
) -> None:
    with pytest.raises(TooLong) as refused:
        await collect(case.ask(text, max_tokens))
    assert refused.value.field == field


async def test_an_unknown_model_is_refused_by_name(case: Case) -> None:
    with pytest.raises(UnknownModel, match="nobody") as refused:
        await collect(case.engine.generate(GenerateRequest("nobody", 5, prompt="a")))
    assert refused.value.field == "model"
    with pytest.raises(UnknownModel, match="nobody"):
        await case.engine.embed(EmbedRequest("nobody", ("a",)))


async def test_a_model_is_not_asked_for_what_it_does_not_do(case: Case) -> None:
    with pytest.raises(UnknownModel):
        await collect(case.engine.generate(GenerateRequest(case.embed, 5, prompt="a")))
    with pytest.raises(UnknownModel):
        await case.engine.embed(EmbedRequest(case.chat, ("a",)))


async def test_an_invalid_request_names_its_field(case: Case) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await collect(case.ask(sampling=Sampling(top_p=2)))
    assert refused.value.field == "top_p"
    with pytest.raises(InvalidRequest) as refused:
        await case.engine.embed(EmbedRequest(case.embed, ("a", "")))
    assert refused.value.field == "texts[1]"


async def test_closing_a_generation_frees_its_slot(case: Case) -> None:
    for _ in range(6):  # More than there are slots and places in the queue.
        async with aclosing(case.ask(max_tokens=None)) as events:
            async for event in events:
                if isinstance(event, Delta):
                    break
    assert (await settled(case.engine)).restarts == 0
    assert isinstance((await collect(case.ask()))[-1], Finished)


async def test_a_caller_that_is_cancelled_while_it_waits_frees_its_slot(case: Case) -> None:
    for _ in range(6):
        task = asyncio.create_task(collect(case.ask(max_tokens=None)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await settled(case.engine)
    assert isinstance((await collect(case.ask()))[-1], Finished)


async def test_more_than_the_queue_holds_is_refused_and_the_rest_is_served(case: Case) -> None:
    outcomes = await asyncio.gather(
        *(collect(case.ask("a " * 20, max_tokens=None)) for _ in range(100)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    served = [outcome for outcome in outcomes if isinstance(outcome, list)]
    assert len(refused) + len(served) == 100
    assert refused
    assert len(served) >= 4
    assert all(isinstance(events[-1], Finished) for events in served)
    await settled(case.engine)


async def test_a_batch_of_texts_equals_its_singles(case: Case) -> None:
    texts = ("नमस्ते दुनिया", "a", "one two three", "a")
    together = await case.engine.embed(EmbedRequest(case.embed, texts, "passage"))
    singles = await asyncio.gather(*(case.engine.embed(EmbedRequest(case.embed, (text,), "passage")) for text in texts))
    assert together.vectors.dtype == np.float32
    assert together.vectors.shape[0] == len(texts)
    assert np.allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(together.vectors, np.concatenate([single.vectors for single in singles]), atol=1e-5)
    assert together.tokens == tuple(single.tokens[0] for single in singles)


async def test_the_role_is_part_of_what_is_embedded(case: Case) -> None:
    results = [
        await case.engine.embed(EmbedRequest(case.embed, ("shop",), "query")),
        await case.engine.embed(EmbedRequest(case.embed, ("query: shop",))),
        await case.engine.embed(EmbedRequest(case.embed, ("shop",), "passage")),
    ]
    assert np.allclose(results[0].vectors, results[1].vectors, atol=1e-6)
    assert not np.allclose(results[0].vectors, results[2].vectors, atol=1e-3)


async def test_a_text_that_does_not_fit_is_refused_and_not_cut(case: Case) -> None:
    with pytest.raises(TooLong) as refused:
        await case.engine.embed(EmbedRequest(case.embed, ("short", "word " * 5000)))
    assert refused.value.field == "texts[1]"
