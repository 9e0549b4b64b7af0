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
            found = cursor.execute("select id, name, created_ms from customers where id = %s", (id,)).fetchone()
            if found is not None:
                return found
    raise Refusal(404, "unknown_customer", "there is no such customer: `nukkad node customer list` names them")


def list_all(connection: Connection) -> list[Customer]:
    with connection.cursor(row_factory=class_row(Customer)) as cursor:
        return cursor.execute("select id, name, created_ms from customers order by id").fetchall()


def lock(connection: Connection, id: str) -> None:
    """Until the transaction ends, nobody else bills, credits or leases to this customer.

    Rows that merely refer to the customer may still be added, else two writers could wait for each other.
    """
    connection.execute("select 1 from customers where id = %s for no key update", (id,))
