"""What a node does at each start before it serves: tables, its key, its prices."""

from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.conninfo import make_conninfo

from sync.node import books, migrate
from sync.node.context import Node
from sync.node.database import Database
from sync.node.errors import NodeError
from sync.node.ingest import ingest
from sync.node.serve import prepare
from sync.node.settings import Settings
from sync.price import PriceBook
from sync.record import Meter, Unit
from sync.segment import Receipt
from tests.sync.node.world import BOOK, START_MS, balances, count, make_box, make_customer, send


def write_book(tmp_path: Path, effective_ms: int, rate: int = 5_000) -> Settings:
    book = PriceBook("test", effective_ms, {Meter.CHAT: {Unit.POINTS_IN: rate}})
    path = tmp_path / "prices.json"
    path.write_bytes(book.to_json())
    return Settings(prices=path)


def in_force(node: Node, time_ms: int) -> str:
    with node.database.snapshot() as connection:
        return books.in_force(connection, time_ms).version


def test_a_second_start_changes_nothing(node: Node) -> None:
    prepare(node.settings, node.database, node.key, node.clock)
    assert balances(node) == (0, 0, 0)


def test_a_database_keeps_to_one_key(node: Node) -> None:
    with pytest.raises(NodeError, match=r"node\.key"):
        prepare(node.settings, node.database, Ed25519PrivateKey.generate(), node.clock)


def test_a_new_book_comes_into_force_on_its_day(node: Node, tmp_path: Path) -> None:
    prepare(write_book(tmp_path, START_MS + 1000), node.database, node.key, node.clock)
    assert in_force(node, START_MS + 999) == BOOK.version
    assert in_force(node, START_MS + 1000) == "test"


def test_records_are_rated_by_the_book_they_name(node: Node, tmp_path: Path) -> None:
    box = make_box(node, make_customer(node))
    settings = write_book(tmp_path, START_MS - 1000)
    prepare(settings, node.database, node.key, node.clock)
    receipt = send(node, box.heartbeat())
    new = PriceBook.from_json(receipt.price_book)
    assert new.version == "test"
    box.use({Unit.POINTS_IN: 1000})
    box.lease = receipt.lease.lease_id
    box.use({Unit.POINTS_IN: 1000}, price_book=new.digest)
    answer = Receipt.from_bytes(ingest(node, box.segment()).payload)
    assert answer.balance == -(10_000 + 5_000)


@pytest.mark.parametrize("effective_ms", [START_MS - 2000, BOOK.effective_ms])
def test_a_file_that_would_not_be_in_force_is_refused(node: Node, tmp_path: Path, effective_ms: int) -> None:
    prepare(write_book(tmp_path, START_MS - 1000, rate=6_000), node.database, node.key, node.clock)
    (tmp_path / "again").mkdir()
    late = write_book(tmp_path / "again", effective_ms)
    with pytest.raises(NodeError, match=r"NUKKAD_NODE_PRICES: .* would change nothing, for price book test is"):
        prepare(late, node.database, node.key, node.clock)
    assert count(node, "select count(*) from price_books") == 2, "what is refused leaves nothing"


def test_the_start_says_which_book_is_in_force(node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sync.node.serve")
    prepare(write_book(tmp_path, START_MS + 1000), node.database, node.key, node.clock)
    assert f"price book {BOOK.version} is in force" in caplog.text and "test follows on 2026-09-21" in caplog.text
    node.clock.now_ms += 1000  # type: ignore[attr-defined]
    caplog.clear()
    prepare(Settings(), node.database, node.key, node.clock)
    assert f"price book test is in force since 2026-09-21 19:43 IST, not {BOOK.version}" in caplog.text


def test_without_a_book_in_force_the_node_does_not_start(node: Node) -> None:
    with node.database.snapshot() as connection, pytest.raises(NodeError, match="NUKKAD_NODE_PRICES"):
        books.in_force(connection, BOOK.effective_ms - 1)


def test_a_day_of_prices_in_microseconds_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"NUKKAD_NODE_PRICES: .* effective_ms: .* beyond the year 3000"):
        books.load(write_book(tmp_path, START_MS * 1000))


def test_a_book_that_rates_tokens_is_named_where_it_enters_and_read_where_it_is_stored(
    node: Node, tmp_path: Path
) -> None:
    old = PriceBook("old", BOOK.effective_ms + 1, {Meter.CHAT: {Unit.TOKENS_OUT: 5}})
    (tmp_path / "prices.json").write_bytes(old.to_json())
    with pytest.raises(NodeError, match=r"NUKKAD_NODE_PRICES: .* rates.chat.tokens_out: tokens are never billed"):
        books.load(Settings(prices=tmp_path / "prices.json"))
    with node.database.transaction() as connection:
        books.store(connection, old, START_MS)
        assert books.in_force(connection, START_MS) == old


def test_a_database_user_without_the_right_to_make_tables_is_told_so(empty_dsn: str, node: Node) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("drop role if exists humble")
        connection.execute("create role humble login")
    database = Database(make_conninfo(empty_dsn, user="humble"), 2)
    database.open()
    try:
        with pytest.raises(NodeError, match=r"NUKKAD_NODE_DSN: permission denied for schema public: .* CREATE"):
            prepare(node.settings, database, node.key, node.clock)
    finally:
        database.close()


def test_tables_that_somebody_holds_are_waited_for_and_then_named(
    empty_dsn: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_S_MAX", 1)
    database = Database(empty_dsn, 2)
    database.open()
    try:
        with psycopg.connect(empty_dsn) as holder:
            holder.execute("select pg_advisory_xact_lock(%s)", (migrate._TURN,))
            with pytest.raises(NodeError, match="NUKKAD_NODE_DSN: another node or program holds the tables"):
                prepare(node.settings, database, node.key, node.clock)
        prepare(node.settings, database, node.key, node.clock)
    finally:
        database.close()


@pytest.mark.parametrize("text", [None, "{", '{"version": "1", "effective_ms": 1.5, "rates": {}}'])
def test_a_bad_file_of_prices_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "prices.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(NodeError, match="NUKKAD_NODE_PRICES"):
        books.load(Settings(prices=path))
