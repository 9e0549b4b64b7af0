"""Adjustments: what the operator corrects by hand, as an entry of its own with the reason beside it.

Nothing posted ever changes, so a mistake is made good by a new entry, which the customer sees on the statement.
"""

import re
from dataclasses import dataclass

from psycopg.rows import class_row

from sync.node import accounts, customers
from sync.node.database import Connection
from sync.node.errors import Refusal
from sync.node.settings import PAISE_MAX
from sync.price import MICRO_PER_PAISA

REASON_MAX = 200
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Adjustment:
    id: str
    customer: str
    amount: int  # micro-rupees, positive when it is in the customer's favour
    reason: str
    made_ms: int


@dataclass(frozen=True)
class Made:
    adjustment: Adjustment
    posted: bool  # False: it had been made before, and nothing was posted now


def adjust(connection: Connection, customer: str, id: str, amount_paise: int, *, reason: str, now_ms: int) -> Made:
    """Posts the amount, once for ever for each id; the same again is the same adjustment. Raises Refusal."""
    if not _ID.fullmatch(id):
        raise Refusal(422, "bad_field", "id: must be 1 to 64 letters, digits, - or _, such as ticket-17")
    if not amount_paise or abs(amount_paise) > PAISE_MAX:
        raise Refusal(422, "bad_field", f"amount_paise: must be 1 to {PAISE_MAX}, or as much below 0")
    if not 1 <= len(reason) <= REASON_MAX or not reason.isprintable() or reason.isspace():
        raise Refusal(422, "bad_field", f"reason: must be 1 to {REASON_MAX} printable characters")
    customers.find(connection, customer)
    posted_ms = customers.lock_to_post(connection, customer, now_ms)
    wished = Adjustment(id, customer, amount_paise * MICRO_PER_PAISA, reason, posted_ms)
    # A second node may be making one of the same id for another customer: the id decides, and waits for that one.
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"adjustment:{id}",))
    found = _find(connection, id)
    if found is not None:
        if (found.customer, found.amount, found.reason) != (customer, wished.amount, reason):
            raise Refusal(409, "id_used", "id: stands on another adjustment; take a new one")
        return Made(found, posted=False)
    amounts = {accounts.ADJUSTMENTS: wished.amount, accounts.wallet(customer): -wished.amount}
    entry = accounts.post(connection, "adjustment", f"adjustment:{id}", amounts, posted_ms)
    connection.execute(
        "insert into adjustments (id, customer, amount, reason, entry, made_ms) values (%s, %s, %s, %s, %s, %s)",
        (id, customer, wished.amount, reason, entry, posted_ms),
    )
    return Made(wished, posted=True)


def list_between(connection: Connection, customer: str, begin_ms: int, end_ms: int) -> list[Adjustment]:
    with connection.cursor(row_factory=class_row(Adjustment)) as cursor:
        return cursor.execute(
            "select id, customer, amount, reason, made_ms from adjustments"
            " where customer = %s and made_ms >= %s and made_ms < %s order by made_ms, id",
            (customer, begin_ms, end_ms),
        ).fetchall()


def _find(connection: Connection, id: str) -> Adjustment | None:
    with connection.cursor(row_factory=class_row(Adjustment)) as cursor:
        return cursor.execute(
            "select id, customer, amount, reason, made_ms from adjustments where id = %s", (id,)
        ).fetchone()
