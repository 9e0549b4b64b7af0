"""Search over the fake engine: what is embedded when, what is found, and what changes under it."""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from appliance.engine.protocol import (
    EmbedRequest,
    EmbedResult,
    EngineUnavailable,
    ModelInfo,
    Overloaded,
    TooLong,
    UnknownModel,
)
from appliance.store.collections import Collections, Entry, Held, Stored, Summary, UnknownCollection
from appliance.tasks import search as module
from appliance.tasks.search import EntryTooLong, Indexing, Search
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL, FakeEngine

FAQ = (
    Entry("hours", "दुकान कब खुलती है?", "सुबह आठ बजे", ("समय",), "hi"),
    Entry("emi", "हप्त्यावर टीव्ही मिळेल का?", "हो", (), "mr"),
    Entry("water", "தண்ணீர் கேன் உண்டா?", "ஆம்", (), "ta"),
)
GIFT = Entry("gift", "Do you wrap gifts?", "Yes")


class WatchedEngine(FakeEngine):
    """Remembers what it embeds; `version` changes its vectors and its digest."""

    def __init__(self, context_tokens: int = 256) -> None:
        super().__init__(context_tokens=context_tokens)
        self.embedded: list[EmbedRequest] = []
        self.version = 2
        self.tuned = False  # whether there is also a model made for search
        self.failing_after: int | None = None  # requests that are still answered
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    def hold(self) -> asyncio.Event:
        """Answer nothing until `go_on`, which is returned; `asked` tells that a request is there."""
        self.asked.clear()
        self.go_on.clear()
        return self.go_on

    async def models(self) -> tuple[ModelInfo, ...]:
        chat, encoder = await super().models()
        plain = ModelInfo(**{**vars(encoder), "digest": bytes([self.version]) * 32})
        tuned = ModelInfo(**{**vars(plain), "name": "tuned", "tasks": ("embedding", "search")})
        return (chat, plain, tuned) if self.tuned else (chat, plain)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        if len(self.embedded) == self.failing_after:
            raise EngineUnavailable("the engine is stopping: try again in a moment")
        self.embedded.append(request)
        self.asked.set()
        await self.go_on.wait()
        result = await super().embed(request)
        return EmbedResult(np.roll(result.vectors, self.version, axis=1), result.tokens)


@pytest.fixture
def engine() -> WatchedEngine:
    return WatchedEngine()


async def fill(search: Search, entries: tuple[Entry, ...] = FAQ) -> int:
    """How many entries had to be embedded."""
    model = await search.model(None)
    work = await search.prepare("faq", entries, model, replace=True)
    await search.keep(work, await search.index(work))
    return len(work.fresh)


async def add(search: Search, entry: Entry) -> Indexing:
    work = await search.prepare("faq", (entry,), await search.model(None), replace=False)
    await search.keep(work, await search.index(work))
    return work


async def test_a_name_or_a_number_is_met_exactly_in_any_script(search: Search) -> None:
    entries = tuple(Entry(f"r{n}", "Redmi का चार्जर?", f"₹{n},५०० shop{n}@upi") for n in range(1, 9))
    await fill(search, entries)
    for query, expected in (("३,५०० का", "r3"), ("SHOP7@upi?", "r7")):
        hits = (await search.find("faq", query, 9)).hits
        assert max(hits, key=lambda hit: hit.terms).entry.id == expected, query


async def test_the_best_comes_first(search: Search) -> None:
    await fill(search)
    for entry in FAQ:
        found = await search.find("faq", entry.question, 3)
        assert found.hits[0].entry == entry
        assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)


async def test_a_score_is_the_sum_of_meaning_and_terms(search: Search) -> None:
    await fill(search)
    for hit in (await search.find("faq", "दुकान कब खुलती है?", 3)).hits:
        assert hit.score == pytest.approx(hit.meaning + module.TERM_WEIGHT * hit.terms)
        assert -1.001 <= hit.meaning <= 1.001
        assert hit.terms >= 0


async def test_the_limit_bounds_the_answer(search: Search) -> None:
    await fill(search)
    assert len((await search.find("faq", "कब", 2)).hits) == 2


async def test_entries_are_passages_and_a_question_is_a_query(search: Search, engine: WatchedEngine) -> None:
    await fill(search)
    await search.find("faq", "कब?", 1)
    passages, query = engine.embedded
    assert passages.role == "passage"
    assert passages.texts == ("दुकान कब खुलती है? सुबह आठ बजे समय", "हप्त्यावर टीव्ही मिळेल का? हो", "தண்ணீர் கேன் உண்டா? ஆம்")
    assert (query.role, query.texts) == ("query", ("कब?",))


async def test_only_what_changed_is_embedded_again(search: Search, engine: WatchedEngine) -> None:
    assert await fill(search) == 3
    assert await fill(search) == 0
    assert await fill(search, (replace(FAQ[0], id="renamed"), *FAQ[1:])) == 0
    assert await fill(search, (*FAQ[:2], replace(FAQ[2], answer="இல்லை"))) == 1
    assert await fill(search, (replace(FAQ[0], tags=("टाइमिंग",)), *FAQ[1:2])) == 1
    assert await fill(search, (replace(FAQ[0], language=None), *FAQ[1:2])) == 1
    assert sum(len(request.texts) for request in engine.embedded) == 6


async def test_what_indexing_is_billed_by(search: Search) -> None:
    work = await search.prepare("faq", (Entry("a", "ब\u095cा", "é", ("कखग",)),), await search.model(None), replace=True)
    assert work.points == 4 + 1 + 3


async def test_a_new_model_renews_the_vectors_once(search: Search, engine: WatchedEngine) -> None:
    await fill(search)
    before = await search.find("faq", "दुकान", 1)
    engine.version = 3
    engine.embedded.clear()
    for _ in range(2):
        assert (await search.find("faq", "दुकान", 1)).hits[0].score == pytest.approx(before.hits[0].score)
    assert [request.role for request in engine.embedded] == ["passage", "query", "query"]


async def test_changed_entries_are_found_at_once(search: Search) -> None:
    await fill(search)
    await search.find("faq", "gift", 1)
    await add(search, GIFT)
    assert (await search.find("faq", "Do you wrap gifts?", 1)).hits[0].entry.id == "gift"
    await search.remove("faq", "gift")
    assert "gift" not in {hit.entry.id for hit in (await search.find("faq", "उपहार", 9)).hits}


async def test_what_was_kept_is_taken_back_as_it_was(search: Search) -> None:
    await fill(search)
    before = (await search.load("faq"))[1]
    work = await add(search, replace(FAQ[0], answer="नौ बजे"))
    assert (await search.find("faq", FAQ[0].question, 1)).hits[0].entry.answer == "नौ बजे"
    await search.undo(work)
    summary, after = await search.load("faq")
    assert [each.entry for each in after] == [each.entry for each in before]
    assert all(each.vector is not None for each in after), "nobody pays for these vectors again"
    assert summary.revision == 3, "no search goes on with what was taken back"
    assert (await search.find("faq", FAQ[0].question, 1)).hits[0].entry == FAQ[0]


async def test_a_collection_that_was_not_there_is_gone_again(search: Search) -> None:
    work = await search.prepare("faq", FAQ, await search.model(None), replace=True)
    await search.keep(work, await search.index(work))
    await search.undo(work)
    assert await search.all() == ()


@pytest.mark.parametrize("there", [False, True])
async def test_what_was_not_kept_needs_no_undoing(search: Search, there: bool) -> None:
    if there:
        await fill(search)
    before = await search.all()
    await search.undo(await search.prepare("faq", (GIFT,), await search.model(None), replace=True))
    assert await search.all() == before


async def test_a_cancelled_change_ends_when_the_store_has(
    search: Search, collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    real = collections.replace

    def held(name: str, model: str, stored: Iterable[Stored]) -> Summary:
        writing.set()
        go_on.wait(60)
        return real(name, model, stored)

    work = await search.prepare("faq", FAQ, await search.model(None), replace=True)
    done = await search.index(work)
    monkeypatch.setattr(collections, "replace", held)
    keeping = asyncio.create_task(search.keep(work, done))
    await asyncio.to_thread(writing.wait, 60)
    keeping.cancel()
    await asyncio.sleep(0)
    assert not keeping.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    await search.undo(work)
    assert await search.all() == ()


async def test_changes_take_turns_and_only_so_many_wait(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANGES_MAX", 2)
    inside = 0

    async def change() -> None:
        nonlocal inside
        async with search.changing():
            inside += 1
            await asyncio.sleep(0)
            assert inside == 1
            inside -= 1

    for _ in range(2):
        ended = await asyncio.gather(change(), change(), change(), return_exceptions=True)
        assert [type(each) for each in ended] == [type(None), type(None), Overloaded]


async def test_an_emptied_collection_finds_nothing(search: Search) -> None:
    await fill(search, FAQ[:1])
    await search.remove("faq", "hours")
    assert (await search.find("faq", "कब", 3)).hits == ()


async def test_many_entries_go_to_the_engine_in_parts(search: Search, engine: WatchedEngine) -> None:
    entries = tuple(Entry(f"e{n}", f"question {n}", f"answer {n}") for n in range(40))
    await fill(search, entries)
    assert [len(request.texts) for request in engine.embedded] == [32, 8]
    assert (await search.find("faq", "question 37", 1)).hits[0].entry.id == "e37"


async def test_an_entry_too_long_for_the_model_is_named(collections: Collections) -> None:
    search = Search(WatchedEngine(context_tokens=24), collections)
    entries = tuple(Entry(f"e{n}", "short", "word " * (40 if n == 19 else 1)) for n in range(20))
    with pytest.raises(EntryTooLong, match=r"entry e19: .*; shorten the answer") as refused:
        await fill(search, entries)
    assert refused.value.entry_id == "e19"
    assert await search.all() == ()


async def test_a_question_too_long_names_the_query(collections: Collections) -> None:
    search = Search(WatchedEngine(context_tokens=24), collections)
    await fill(search)
    with pytest.raises(TooLong) as refused:
        await search.find("faq", "word " * 40, 1)
    assert refused.value.field == "query"


async def test_the_model_that_was_tuned_for_search_comes_first(search: Search, engine: WatchedEngine) -> None:
    engine.tuned = True
    assert (await search.model(None)).name == "tuned"
    assert (await search.model(EMBED_MODEL)).name == EMBED_MODEL


async def test_unknown_names_are_refused(search: Search) -> None:
    with pytest.raises(UnknownModel, match=f"active: {EMBED_MODEL}"):
        await search.model(CHAT_MODEL)
    with pytest.raises(UnknownCollection):
        await search.find("faq", "x", 1)


async def test_only_so_many_collections_stay_in_memory(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INDEXES_MAX", 1)
    model = await search.model(None)
    for name in ("one", "two"):
        work = await search.prepare(name, FAQ, model, replace=True)
        await search.keep(work, await search.index(work))
        await search.find(name, "कब", 1)
    assert list(search._indexes) == ["two"]
    assert (await search.find("one", "कब खुलती", 1)).hits[0].entry.id == "hours"


async def test_a_caller_who_leaves_does_not_end_what_others_need(search: Search, engine: WatchedEngine) -> None:
    await fill(search, tuple(Entry(f"e{n}", f"question {n}", f"answer {n}") for n in range(70)))
    engine.version = 3
    engine.embedded.clear()
    engine.hold()
    for _ in range(3):
        leaving = asyncio.create_task(search.find("faq", "question 7", 1))
        await asyncio.wait_for(engine.asked.wait(), 60)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    engine.go_on.set()
    assert (await search.find("faq", "question 7", 1)).hits
    assert [len(request.texts) for request in engine.embedded] == [32, 32, 6, 1], "each entry once, then the question"


async def test_batches_that_were_renewed_stay(
    search: Search, engine: WatchedEngine, collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(search, tuple(Entry(f"e{n}", f"question {n}", f"answer {n}") for n in range(70)))
    engine.version = 3
    await search.model(None)
    engine.failing_after = len(engine.embedded) + 2
    with pytest.raises(EngineUnavailable):
        await search.find("faq", "question 7", 1)
    renewed = [each for each in collections.load("faq")[1] if each.vector and each.vector.digest == bytes([3]) * 32]
    assert len(renewed) == 64


async def test_what_was_deleted_and_uploaded_anew_keeps_nothing_of_before(
    search: Search, engine: WatchedEngine, collections: Collections
) -> None:
    """Same name, same ids: what a search began to renew before is not taken for the new texts."""
    await fill(search)
    engine.version = 3
    held = engine.hold()
    late = asyncio.create_task(search.find("faq", "दुकान", 9))
    await asyncio.wait_for(engine.asked.wait(), 60)
    engine.go_on = asyncio.Event()
    engine.go_on.set()
    async with search.changing():
        await search.delete("faq")
    again = tuple(replace(entry, answer="नया") for entry in FAQ)
    await fill(search, again)
    fresh = [each.vector for each in collections.load("faq")[1]]
    held.set()
    await asyncio.gather(late, return_exceptions=True)
    assert {hit.entry for hit in (await search.find("faq", "दुकान", 9)).hits} == set(again)
    for vector, each in zip(fresh, collections.load("faq")[1], strict=True):
        assert vector and each.vector and (vector.values == each.vector.values).all()


async def test_an_index_of_what_was_deleted_is_not_used(
    search: Search, collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(search)
    reading, go_on = threading.Event(), threading.Event()
    real = collections.load

    def held(name: str) -> Held:
        found = real(name)
        reading.set()
        go_on.wait(60)
        return found

    monkeypatch.setattr(collections, "load", held)
    late = asyncio.create_task(search.find("faq", "दुकान", 9))
    await asyncio.to_thread(reading.wait, 60)
    monkeypatch.setattr(collections, "load", real)
    async with search.changing():
        await search.delete("faq")
    await fill(search, (GIFT,))
    go_on.set()
    await late
    assert [hit.entry.id for hit in (await search.find("faq", "दुकान", 9)).hits] == ["gift"]


async def test_closing_ends_what_is_being_built(search: Search, engine: WatchedEngine) -> None:
    await fill(search)
    engine.version = 3
    engine.hold()
    waiting = asyncio.create_task(search.find("faq", "दुकान", 9))
    await asyncio.wait_for(engine.asked.wait(), 60)
    await search.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
