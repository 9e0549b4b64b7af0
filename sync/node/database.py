"""A bounded pool of connections to PostgreSQL, and one way to use it: a transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg_pool import ConnectionPool

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

WAIT_S_MAX = 5
# A request that waits longer than this for a lock or an answer is refused with 503, and its caller tries again.
OPTIONS = "-c lock_timeout=5s -c statement_timeout=30s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"


class Database:
    """Threads share it. Raises psycopg.OperationalError where the server is away or too slow."""

    def __init__(self, dsn: str, connections: int, wait_s: float = WAIT_S_MAX) -> None:
        self._pool = ConnectionPool(
            dsn,
            min_size=1,
            max_size=connections,
            max_waiting=connections * 16,
            timeout=wait_s,
            check=ConnectionPool.check_connection,
            kwargs={"options": OPTIONS, "application_name": "nukkad-node", "connect_timeout": WAIT_S_MAX},
            open=False,
        )

    def open(self) -> None:
        self._pool.open()

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commits at the end of the block and rolls back when it raises; what it read was read committed."""
        with self._pool.connection() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A transaction that only reads, and sees one moment however long it looks."""
        with self.transaction() as connection:
            connection.execute("set transaction isolation level repeatable read, read only")
            yield connection
