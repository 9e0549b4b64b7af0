"""Shops' customers ask in five languages, most of them not in the language of the answer: the real model finds it."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.engine.process import EngineProcess
from appliance.engine.settings import EngineSettings
from appliance.store.collections import Collections
from appliance.tasks.search import Search
from tests.tasks.shops import Shop, read_shop

READY_S = 120


@pytest.fixture
async def search(starter_store: Path, collections: Collections) -> AsyncIterator[Search]:
    """Over the real engine with the real package."""
    engine = EngineProcess(starter_store, EngineSettings(threads=2))
    await engine.start()
    try:
        await engine.wait_ready(READY_S)
        yield Search(engine, collections)
    finally:
        await engine.stop()


async def found_first(search: Search, shop: Shop) -> Counter[str]:
    """With the model made for search: how many questions of each language have the expected entry first."""
    model = await search.model(None)
    work = await search.prepare("faq", shop.entries, model, replace=True)
    await search.keep(work, await search.index(work))
    right: Counter[str] = Counter()
    for each in shop.questions:
        found = await search.find("faq", each.question, 1)
        right[each.language] += found.hits[0].entry.id == each.expected
    return right


@pytest.mark.models
@pytest.mark.parametrize(("name", "least"), [("kirana", 46), ("textiles", 38)])
async def test_most_questions_find_their_entry_first(search: Search, name: str, least: int) -> None:
    """The unseen shop, which decides, is asked end to end (tests/e2e). These two say that nothing broke.

    A glossary, written by the same hand as these two, would add 1 of kirana and 2 to 8 of textiles. It was dropped when
    it took the unseen shop from 44 to 42 of 50 with an earlier adapter; with this one it makes no difference there
    (46), and would add 1 or 2 in a hundred on the two shops kept out of training.
    """
    right = await found_first(search, read_shop(name))
    assert right.total() >= least, right
    assert min(right.values()) >= 7, right
