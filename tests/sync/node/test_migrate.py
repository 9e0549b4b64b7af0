"""Tables are made once, however many nodes start together."""

import threading
from collections.abc import Iterator

import pytest

from sync.node import migrate as module
from sync.node.database import Database
from sync.node.errors import NodeError
from sync.node.migrate import migrate, migrations


@pytest.fixture
def database(empty_dsn: str) -> Iterator[Database]:
    database = Database(empty_dsn, 8)
    database.open()
    yield database
    database.close()


def test_numbers_are_in_order_without_a_gap() -> None:
    assert [number for number, _, _ in migrations()] == list(range(1, len(migrations()) + 1))


def test_the_second_time_nothing_is_missing(database: Database) -> None:
    assert migrate(database, 1) == len(migrations())
    assert migrate(database, 2) == 0


def test_many_nodes_at_once(database: Database) -> None:
    applied: list[int] = []
    start = threading.Barrier(6)

    def start_node() -> None:
        start.wait()
        applied.append(migrate(database, 1))

    threads = [threading.Thread(target=start_node) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [0, 0, 0, 0, 0, len(migrations())]


def test_a_changed_file_is_noticed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database, 1)
    changed = [(number, name, text + "-- changed") for number, name, text in migrations()]
    monkeypatch.setattr(module, "migrations", lambda: changed)
    with pytest.raises(NodeError, match="changed after it was applied"):
        migrate(database, 2)


def test_an_older_node_refuses_newer_tables(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(database, 1)
    monkeypatch.setattr(module, "migrations", list)
    with pytest.raises(NodeError, match="newer"):
        migrate(database, 2)


def test_a_migration_may_take_longer_than_a_request(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "do $$ begin if current_setting('statement_timeout') <> '0' or current_setting('lock_timeout') <> '10min'"
        " then raise 'hurried'; end if; end $$"
    )
    monkeypatch.setattr(module, "migrations", lambda: [(1, "slow.sql", text)])
    assert migrate(database, 1) == 1
    with database.transaction() as connection:
        assert connection.execute("show statement_timeout").fetchone() == ("30s",)


def test_a_migration_that_fails_leaves_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = migrations()
    monkeypatch.setattr(module, "migrations", lambda: [*real, (len(real) + 1, "bad.sql", "select nonsense")])
    with pytest.raises(Exception, match="nonsense"):
        migrate(database, 1)
    monkeypatch.setattr(module, "migrations", lambda: real)
    assert migrate(database, 2) == len(real)
