from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from appliance.box import Box
from tests.support.box import Street


@pytest.fixture
async def street(tmp_path: Path) -> Street:
    """The surroundings of an enrolled box."""
    made = Street(tmp_path)
    await made.enrol()
    return made


@pytest.fixture
async def box(street: Street) -> AsyncIterator[Box]:
    async with street.box() as opened:
        yield opened


@pytest.fixture
async def caller(street: Street, box: Box) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a fresh key."""
    async with street.caller(box) as client:
        yield client
