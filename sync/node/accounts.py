"""Double entry in micro-rupees: every entry's postings sum to zero, and nothing posted ever changes.

A debit is positive, a credit negative. A customer's wallet is what the house owes the customer, so money paid in is a
credit to it and use is a debit; a wallet overdrawn by the allowance is what the customer owes the house.
The tables themselves refuse an unbalanced entry and a change (migrations/0001_first.sql).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg.rows import class_row

from sync.node.database import Connection
from sync.record import Meter

BANK = "bank"
ADJUSTMENTS = "adjustments"  # what the operator gave up, less what they took back, by hand


def wallet(customer: str) -> str:
    return f"wallet:{customer}"


def revenue(meter: Meter) -> str:
    return f"revenue:{meter.name.lower()}"


def open_wallet(connection: Connection, customer: str) -> None:
    connection.execute("insert into accounts (id, customer) values (%s, %s)", (wallet(customer), customer))


def open_house(connection: Connection) -> None:
    """The accounts that are no customer's. Idempotent."""
    for account in (BANK, ADJUSTMENTS, *map(revenue, Meter)):
        connection.execute("insert into accounts (id) values (%s) on conflict do nothing", (account,))


def post(connection: Connection, kind: str, reference: str, amounts: Mapping[str, int], now_ms: int) -> int:
    """Makes one entry and returns its number; amounts of 0 are left out. A reference is posted once for ever."""
    row = connection.execute(
        "insert into entries (kind, reference, posted_ms) values (%s, %s, %s) returning id", (kind, reference, now_ms)
    ).fetchone()
    assert row is not None
    entry = int(row[0])
    connection.cursor().executemany(
        "insert into postings values (%s, %s, %s)",
        [(entry, account, amount) for account, amount in sorted(amounts.items()) if amount],
    )
    return entry


def balance(connection: Connection, customer: str) -> int:
    """Micro-rupees left in the wallet; below 0 by what was used of the allowance."""
    row = connection.execute("select -balance from accounts where customer = %s", (customer,)).fetchone()
    assert row is not None
    return int(row[0])


def balance_before(connection: Connection, customer: str, time_ms: int) -> int:
    """The wallet from everything posted before a time."""
    row = connection.execute(
        "select coalesce(-sum(amount), 0)::bigint from postings join entries on entries.id = entry"
        " where account = %s and posted_ms < %s",
        (wallet(customer), time_ms),
    ).fetchone()
    assert row is not None
    return int(row[0])


def posted_span_ms(connection: Connection, customer: str) -> tuple[int, int] | None:
    """The earliest and the latest time of the wallet's entries; None where there are none."""
    row = connection.execute(
        "select min(posted_ms), max(posted_ms) from postings join entries on entries.id = entry where account = %s",
        (wallet(customer),),
    ).fetchone()
    assert row is not None
    return None if row[0] is None else (int(row[0]), int(row[1]))


@dataclass(frozen=True)
class AccountTotal:
    account: str
    debits: int
    credits: int
    drift: int  # by how much a kept balance differs from the postings: always 0


def trial_balance(connection: Connection) -> list[AccountTotal]:
    with connection.cursor(row_factory=class_row(AccountTotal)) as cursor:
        return cursor.execute(
            "select id as account,"
            " coalesce(sum(greatest(amount, 0)), 0)::bigint as debits,"
            " coalesce(sum(greatest(-amount, 0)), 0)::bigint as credits,"
            " case when customer is null then 0 else balance - coalesce(sum(amount), 0)::bigint end as drift"
            " from accounts left join postings on account = id group by id order by id"
        ).fetchall()
