"""A running box: everything its routes work with, made once by whoever starts it."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request

from appliance.engine.protocol import Engine
from appliance.gateway.metrics import Metrics
from appliance.gateway.running import Running
from appliance.meter import CallMeter
from appliance.node import Connect
from appliance.settings import Settings
from appliance.store.keys import Keys
from appliance.tasks.search import Search
from models.store import Store
from sync.clock import Clock
from sync.identity import Identity
from sync.ledger import Ledger
from sync.transport import NodeClient
from sync.worker import SyncWorker


class ServedEngine(Engine, Protocol):
    """An engine that serves what is active in the package store."""

    async def reload(self) -> tuple[tuple[str, str], ...]:
        """Serve what is active now; returns what could not be loaded and why."""
        ...


@dataclass(frozen=True)
class Box:
    """`node` and `worker` are None until the box is enrolled. Setting `reopen` closes all parts and opens them anew."""

    settings: Settings
    clock: Clock
    identity: Identity
    engine: ServedEngine
    ledger: Ledger
    meter: CallMeter
    keys: Keys
    packages: Store
    search: Search
    connect: Connect
    node: NodeClient | None
    worker: SyncWorker | None
    running: Running
    metrics: Metrics
    admin_token: str
    started_ms: int
    reopen: asyncio.Event = field(default_factory=asyncio.Event)


def the_box(request: Request) -> Box:
    """The box that answers this request (a FastAPI dependency)."""
    box = request.app.state.box
    assert isinstance(box, Box)
    return box
