"""Runs a node: holds the state folder, starts the database, serves until SIGINT or SIGTERM, and stops in order."""

import asyncio
import logging
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from sync.clock import Clock, SystemClock
from sync.node import accounts, books
from sync.node.app import create_app
from sync.node.database import Connection, Database
from sync.node.errors import NodeError
from sync.node.migrate import migrate
from sync.node.postgres import Postgres
from sync.node.settings import PAYEE_UNSET, Settings
from sync.node.state import hold_state, load_key, load_token, public_bytes
from sync.serving import serve_until

BACKLOG = 128
CONNECT_S_MAX = 10
STOP_S_MAX = 10  # for requests under way; who holds a connection without asking anything does not hold up the stop

log = logging.getLogger(__name__)


@contextmanager
def open_database(settings: Settings) -> Iterator[tuple[Database, "Future[None]"]]:
    """The database of NUKKAD_NODE_DSN, else the embedded one; and what is done when that one is lost for good.

    The caller holds the state folder. Raises NodeError.
    """
    with ExitStack() as stack:
        lost: Future[None] = Future()
        dsn = settings.dsn
        if dsn is None:
            postgres = Postgres(settings.state / "postgres", settings.connections)
            stack.callback(postgres.stop)
            postgres.start()
            dsn, lost = postgres.dsn, postgres.lost
        _check_answer(dsn)
        database = Database(dsn, settings.connections)
        stack.callback(database.close)
        database.open()
        yield database, lost


def prepare(settings: Settings, database: Database, key: Ed25519PrivateKey, clock: Clock) -> None:
    """Brings tables, accounts and prices up to date. Idempotent, also while other nodes do it. Raises NodeError."""
    try:
        migrate(database, clock.wall_ms())
        with database.transaction() as connection:
            _claim(connection, public_bytes(key))
            accounts.open_house(connection)
            log.info("%s", books.update(connection, settings, clock.wall_ms()))
    except psycopg.errors.InsufficientPrivilege as error:
        raise NodeError(
            f"NUKKAD_NODE_DSN: {error.diag.message_primary}: the user it names needs a database of its own"
            " (CREATE DATABASE … OWNER that user), or CREATE on the schema public and all rights on the node's tables"
        ) from None
    except psycopg.errors.LockNotAvailable:
        raise NodeError(
            "NUKKAD_NODE_DSN: another node or program holds the tables for minutes: end it, or wait, and start again"
        ) from None


def serve(settings: Settings) -> None:
    """Returns after a clean stop. Raises NodeError with the operator's next step."""
    clock = SystemClock()
    with hold_state(settings.state):
        _check_port(settings)
        key, token = load_key(settings.state), load_token(settings.state)
        with open_database(settings) as (database, lost):
            prepare(settings, database, key, clock)
            if settings.payee_vpa == PAYEE_UNSET:
                log.warning("top-up links cannot be paid: set NUKKAD_NODE_PAYEE_VPA to your UPI address")
            app = create_app(settings, database, clock, secrets.token_bytes, key=key, token=token)
            asyncio.run(_serve(app, settings, lost))
            if lost.done():
                raise NodeError(
                    "PostgreSQL died too often in a row: its log, postgres.log in the state folder, says why"
                )


async def _serve(app: FastAPI, settings: Settings, lost: "Future[None]") -> None:
    """Until SIGINT or SIGTERM, or until the database is lost."""
    server = Server(
        app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        backlog=BACKLOG,
        backpressure=settings.callers,
        http1_settings=HTTP1Settings(header_read_timeout=settings.header_s * 1000),
        websockets=False,
        log_enabled=False,
    )
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    lost.add_done_callback(lambda _: loop.call_soon_threadsafe(stop.set))
    log.info("the node serves at %s", settings.url)
    await serve_until(server, [stop], STOP_S_MAX)


def _claim(connection: Connection, public_key: bytes) -> None:
    """One database has one signing key, whichever machine the node runs on."""
    connection.execute("insert into identity (public_key) values (%s) on conflict do nothing", (public_key,))
    row = connection.execute("select public_key from identity").fetchone()
    assert row is not None
    if row[0] != public_key:
        raise NodeError(
            "this database belongs to a node with another key: copy that node's node.key into this state folder"
        )


def _check_answer(dsn: str) -> None:
    """A wrong DSN is named before anything waits for it."""
    try:
        psycopg.connect(dsn, connect_timeout=CONNECT_S_MAX).close()
    except psycopg.ProgrammingError:  # Its text quotes the setting, password and all.
        raise NodeError("NUKKAD_NODE_DSN: is not of the form postgresql://user:password@host/database") from None
    except psycopg.Error as error:
        raise NodeError(f"NUKKAD_NODE_DSN: no database answers: {str(error).strip()}") from None


def _check_port(settings: Settings) -> None:
    """A taken port is named before the database starts."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise NodeError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): set NUKKAD_NODE_PORT"
            ) from None
