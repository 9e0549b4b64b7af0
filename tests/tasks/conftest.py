from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store.collections import Collections
from appliance.tasks.search import Search
from tests.support.fake_engine import FakeEngine
from tests.support.held_clock import HeldClock


@pytest.fixture
def collections(tmp_path: Path) -> Iterator[Collections]:
    opened = Collections(tmp_path, HeldClock())
    yield opened
    opened.close()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def search(engine: FakeEngine, collections: Collections) -> Search:
    return Search(engine, collections)
