"""One real PostgreSQL for the whole run; each test finds its tables empty."""

import itertools
import random
from collections.abc import Iterator

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import make_conninfo

from sync.node.context import Node
from sync.node.database import Database
from sync.node.postgres import Postgres
from sync.node.serve import prepare
from sync.node.settings import Settings
from tests.support.held_clock import HeldClock
from tests.sync.node.world import START_MS

# Children first; deleting is many times faster than a new database. The role keeps the append-only triggers silent.
_EMPTY = "set local session_replication_role = replica;" + ";".join(
    f"delete from {table}"
    for table in (
        "adjustments", "payments", "topups", "leases", "segments", "records", "price_books", "codes",
        "forks", "epochs", "devices",
        "postings", "entries", "accounts", "customers", "identity",
    )
)  # fmt: skip

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    postgres = Postgres(tmp_path_factory.mktemp("node") / "postgres", connections=60)
    postgres.start()
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        # Kills are tested on servers of their own (test_postgres, test_serve); here no commit need wait for the disk.
        connection.execute("alter role postgres set synchronous_commit = off")
    yield postgres
    postgres.stop()


@pytest.fixture
def empty_dsn(server: Postgres) -> str:
    """A database of the test's own, without tables."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return make_conninfo(server.dsn, dbname=name)


@pytest.fixture(scope="session")
def shared_database(server: Postgres) -> Iterator[Database]:
    database = Database(server.dsn, 8)
    database.open()
    yield database
    database.close()


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock(START_MS)


@pytest.fixture
def node(shared_database: Database, clock: HeldClock) -> Node:
    key = Ed25519PrivateKey.from_private_bytes(b"n" * 32)
    settings = Settings(payee_vpa="nukkad@examplebank", payee_name="Nukkad Test")
    with shared_database.transaction() as connection:
        if connection.execute("select to_regclass('identity')").fetchone() != (None,):
            connection.execute(_EMPTY.encode())
    prepare(settings, shared_database, key, clock)
    return Node(settings, shared_database, key, "operator-token", clock, random.Random(7).randbytes)
