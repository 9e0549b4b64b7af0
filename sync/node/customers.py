"""Customers: who pays. Each has one wallet."""

import re
from dataclasses import dataclass

from psycopg.rows import class_row

from sync.node.accounts import open_wallet
from sync.node.database import Connection
from sync.node.errors import Refusal

_ID = re.compile(r"[a-z0-9][a-z0-9-]{1,39}")
NAME_MAX = 100


@dataclass(frozen=True)
class Customer:
    id: str
    name: str
    created_ms: int
    closed_ms: int  # a final statement was made of the days before this moment


def add(connection: Connection, id: str, name: str, now_ms: int) -> Customer:
    """Makes a customer with an empty wallet. The same id and name again is the same customer. Raises Refusal."""
    if not _ID.fullmatch(id):
        raise Refusal(422, "bad_field", "id: must be 2 to 40 of a-z, 0-9 and -, such as sharma-store")
    if not 1 <= len(name) <= NAME_MAX or not name.isprintable() or name.isspace():
        raise Refusal(422, "bad_field", f"name: must be 1 to {NAME_MAX} printable characters")
    made = connection.execute("insert into customers values (%s, %s, %s) on conflict do nothing", (id, name, now_ms))
    if made.rowcount:
        open_wallet(connection, id)
    customer = find(connection, id)
    if customer.name != name:
        raise Refusal(409, "customer_exists", f"id: {id} is already the customer {customer.name!r}")
    return customer


def find(connection: Connection, id: str) -> Customer:
    """Raises Refusal 404."""
    if _ID.fullmatch(id):
        with connection.cursor(row_factory=class_row(Customer)) as cursor:
            found = cursor.execute(
                "select id, name, created_ms, closed_ms from customers where id = %s", (id,)
            ).fetchone()
            if found is not None:
                return found
    raise Refusal(404, "unknown_customer", "there is no such customer: `nukkad node customer list` names them")


@dataclass(frozen=True)
class CustomerBalance:
    id: str
    name: str
    balance: int  # micro-rupees


def list_balances(connection: Connection, after: str, limit: int) -> list[CustomerBalance]:
    """Those whose ids come after that one, in order."""
    with connection.cursor(row_factory=class_row(CustomerBalance)) as cursor:
        return cursor.execute(
            "select customers.id, name, -balance as balance from customers join accounts on customer = customers.id"
            " where customers.id > %s order by customers.id limit %s",
            (after, limit),
        ).fetchall()


def lock(connection: Connection, id: str) -> int:
    """Until the transaction ends, nobody else bills, credits or leases to this customer; returns their closed_ms.

    Rows that merely refer to the customer may still be added, else two writers could wait for each other.
    """
    row = connection.execute("select closed_ms from customers where id = %s for no key update", (id,)).fetchone()
    assert row is not None
    return int(row[0])


def lock_to_post(connection: Connection, id: str, now_ms: int) -> int:
    """Locks, and says when to post: now, but in no day of which a final statement was made."""
    return max(now_ms, lock(connection, id))


def close(connection: Connection, id: str, before_ms: int) -> None:
    """Nothing is posted before this moment any more; waits for who is posting now."""
    connection.execute(
        "update customers set closed_ms = %(at)s where id = %(id)s and closed_ms < %(at)s", {"at": before_ms, "id": id}
    )
