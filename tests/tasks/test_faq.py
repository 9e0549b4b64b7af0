"""A shop's customers ask in five languages, most of them not in the language of the answer: the real model finds it."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.engine.process import EngineProcess
from appliance.engine.settings import EngineSettings
from appliance.store.collections import Collections, Entry
from appliance.tasks.search import Search
from models.layout import pack
from models.store import Store
from tests.conftest import Starters
from tests.tasks.shops import Question, kirana, textiles

READY_S = 120


@pytest.fixture
async def search(starters: Starters, tmp_path: Path, collections: Collections) -> AsyncIterator[Search]:
    """Over the real engine with the real package."""
    pack(starters.package("multilingual-e5-small"), tmp_path / "layout")
    store = Store(tmp_path / "store")
    package = store.install(tmp_path / "layout")
    store.activate(package.name, package.digest)
    engine = EngineProcess(tmp_path / "store", EngineSettings(threads=2))
    await engine.start()
    try:
        await engine.wait_ready(READY_S)
        yield Search(engine, collections)
    finally:
        await engine.stop()


async def found_first(search: Search, entries: tuple[Entry, ...], questions: tuple[Question, ...]) -> Counter[str]:
    """How many questions of each language have the expected entry first."""
    model = await search.model("multilingual-e5-small")
    await search.replace("faq", model, await search.index(await search.prepare("faq", entries, model)))
    right: Counter[str] = Counter()
    for each in questions:
        found = await search.find("faq", each.question, 1)
        right[each.language] += found.hits[0].entry.id == each.expected
    return right


@pytest.mark.models
async def test_nine_of_ten_questions_find_their_entry_first(search: Search) -> None:
    right = await found_first(search, *kirana())
    assert right.total() >= 45, right
    assert min(right.values()) >= 8, right


@pytest.mark.models
async def test_the_shop_that_search_was_tuned_on_has_not_become_worse(search: Search) -> None:
    right = await found_first(search, *textiles())
    assert right.total() >= 40, right
