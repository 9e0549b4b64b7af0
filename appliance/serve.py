"""Runs a box: its parts are opened, served and closed here, in order.

The gateway is granian embedded in this process's event loop, so the box is exactly two processes, gateway and engine.
"""

import asyncio
import logging
import secrets
from contextlib import AsyncExitStack

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from appliance import state
from appliance.app import create_app
from appliance.box import Box, ServedEngine
from appliance.gateway.metrics import Metrics
from appliance.gateway.running import Running
from appliance.meter import CallMeter
from appliance.node import Connect, over_http
from appliance.settings import Settings
from appliance.store.collections import Collections
from appliance.store.database import LEDGERS, open_database
from appliance.store.keys import Keys
from appliance.tasks.search import Search
from models.store import Store
from sync.clock import Clock
from sync.identity import Identity, load_or_create
from sync.ledger import Ledger
from sync.serving import serve_until
from sync.worker import SyncWorker

log = logging.getLogger("nukkad")


async def serve(
    settings: Settings, engine: ServedEngine, clock: Clock, stop: asyncio.Event, connect: Connect | None = None
) -> None:
    """Serve until `stop` is set. `connect` reaches a node; None: over HTTP.

    The caller has claimed folder and address, and starts and stops the engine. Raises DatabaseError, IdentityError,
    LedgerError before anything is served, and LedgerUnavailable when the ledger has failed and must be opened anew:
    whoever runs this process starts it again.
    """
    while not stop.is_set():
        async with AsyncExitStack() as opened:
            box = await open_box(settings, engine, clock, connect or over_http(clock), opened)
            await _listen(box, stop)


async def open_box(
    settings: Settings, engine: ServedEngine, clock: Clock, connect: Connect, opened: AsyncExitStack
) -> Box:
    """The parts of the box, from what is in the state folder. `opened` closes them in reverse order."""
    identity = load_or_create(settings.state)
    database = open_database(settings.state, clock)
    opened.callback(database.close)
    collections = Collections(settings.state, clock)
    opened.callback(collections.close)
    search = Search(engine, collections)
    opened.push_async_callback(search.close)
    ledger = opened.enter_context(open_ledger(settings, identity, clock))
    node = worker = None
    if identity.enrolment is not None:
        node = await opened.enter_async_context(connect(identity.enrolment.node_url, identity))
        worker = SyncWorker(ledger, node, identity, clock, every_s=settings.sync_s)
        shipping = asyncio.create_task(worker.run(), name="sync")
        opened.push_async_callback(_end, shipping)
    return Box(
        settings=settings,
        clock=clock,
        identity=identity,
        engine=engine,
        ledger=ledger,
        meter=CallMeter(ledger, clock, worker),
        keys=Keys(database, clock),
        packages=Store(settings.store),
        search=search,
        connect=connect,
        node=node,
        worker=worker,
        running=Running(settings.key_concurrency, settings.places_per_key),
        metrics=Metrics(),
        admin_token=state.admin_token(settings.state),
        started_ms=clock.wall_ms(),
    )


def open_ledger(settings: Settings, identity: Identity, clock: Clock) -> Ledger:
    """The ledger of the present epoch; each epoch has a file of its own. Raises LedgerError."""
    node_key = identity.enrolment.node_public_key if identity.enrolment else None
    path = settings.state / LEDGERS.replace("*", str(identity.epoch))
    return Ledger(path, identity.device, identity.epoch, secrets.token_bytes(16), clock, node_key=node_key)


async def _listen(box: Box, stop: asyncio.Event) -> None:
    """Answer requests until `stop` or the box's own `reopen` is set; then let running calls end, within bounds.

    Raises LedgerUnavailable when the ledger has failed.
    """
    settings = box.settings
    loop, failed = asyncio.get_running_loop(), asyncio.Event()

    def end() -> None:
        box.running.stop_all()  # What they would still give could not be billed.
        failed.set()

    box.ledger.failed.add_done_callback(lambda _: loop.call_soon_threadsafe(end))
    server = Server(
        create_app(box),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        backpressure=settings.connections,
        http1_settings=HTTP1Settings(header_read_timeout=settings.header_s * 1000),
        log_enabled=False,
    )
    await serve_until(server, (stop, box.reopen, failed), settings.stop_s, box.running.stop_all)
    if failed.is_set():
        box.ledger.check_writable()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
