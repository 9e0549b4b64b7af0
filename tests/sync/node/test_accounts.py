"""The tables themselves keep the books straight, whoever writes to them."""

import psycopg
import pytest

from sync.node import accounts
from sync.node.accounts import post
from sync.node.context import Node
from tests.support.held_clock import HeldClock
from tests.sync.node.world import START_MS, balances, make_box, make_customer, pay, send


@pytest.fixture(autouse=True)
def customer(node: Node) -> str:
    return make_customer(node)


@pytest.mark.parametrize(
    "amounts", [{"bank": 5}, {"bank": 5, "wallet:sharma": -4}, {}, {"bank": 0}, {"bank": 2**62, "wallet:sharma": 2**62}]
)
def test_an_entry_that_is_not_balanced_never_commits(node: Node, amounts: dict[str, int]) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match="not balanced"), node.database.transaction() as connection:
        post(connection, "topup", "one", amounts, START_MS)
    assert balances(node) == (0, 0, 0)


def test_a_posting_added_later_must_balance_too(node: Node) -> None:
    pay(node, "sharma", 500, "1" * 12)
    with pytest.raises(psycopg.errors.RaiseException, match="not balanced"), node.database.transaction() as connection:
        connection.execute("insert into postings select id, 'revenue:chat', 7 from entries")


def test_a_reference_is_posted_once(node: Node) -> None:
    for _ in range(2):
        try:
            with node.database.transaction() as connection:
                post(connection, "topup", "one", {"bank": 5, "wallet:sharma": -5}, START_MS)
        except psycopg.errors.UniqueViolation:
            break
    else:
        pytest.fail("the same reference was posted twice")
    assert balances(node) == (5, 5, 0)


@pytest.mark.parametrize("table", ["entries", "postings", "records", "payments", "price_books"])
@pytest.mark.parametrize("change", ["update {} set {column} = {column}", "delete from {}", "truncate {} cascade"])
def test_what_was_posted_never_changes(node: Node, table: str, change: str) -> None:
    box = make_box(node, "sharma")
    box.use_paise(1)
    send(node, box.segment())
    pay(node, "sharma", 500, "1" * 12)
    column = {"entries": "kind", "postings": "amount", "records": "used_ms", "payments": "utr"}.get(table, "book")
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"), node.database.transaction() as connection:
        connection.execute(change.format(table, column=column).encode())


def test_balances_before_a_time(node: Node, clock: HeldClock) -> None:
    for number, time_ms in enumerate((START_MS, START_MS + 10)):
        clock.now_ms = time_ms
        pay(node, "sharma", 500, f"{number:012}")
    with node.database.snapshot() as connection:
        seen = [accounts.balance_before(connection, "sharma", START_MS + after) for after in (0, 1, 10, 11)]
    assert seen == [0, 5_000_000, 5_000_000, 10_000_000]
