"""A node and a box as real processes, with the real starter models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import House


@pytest.fixture
def settings() -> dict[str, str]:
    """More environment for node and box; a test module may say otherwise."""
    return {}


@pytest.fixture
def house(tmp_path: Path, starter_store: Path, settings: dict[str, str]) -> Iterator[House]:
    """Node and box that run, the box enrolled with the customer `shop`."""
    made = House(tmp_path, starter_store, **settings)
    try:
        made.start_node()
        made.nukkad("node", "customer", "add", "A shop", "--id", "shop")
        made.nukkad("enrol", made.ask("node", "enrol", "shop")["code"])
        made.start_box()
        yield made
    finally:
        made.close()
        print(made.logs()[-8000:])
