"""A customer's statement: what was used, what was paid, and the balance before and after, exact to the micro-rupee.

A period takes what was posted in it. A box that was offline reports late, so a line's day of use may lie before the
period; in return a final statement never changes, and closing = opening + top-ups + adjustments - usage always holds.
A statement of days that are over is final: making it closes them (customers.close), so that nothing is posted there
any more, whatever the clocks of the nodes do.
"""

from dataclasses import dataclass
from datetime import date

from psycopg.rows import class_row

from sync.clock import DAY_MS, INDIA_MS, day_in_india, day_start_ms
from sync.node import accounts, adjustments, customers
from sync.node.adjustments import Adjustment
from sync.node.customers import Customer
from sync.node.database import Connection, Database
from sync.node.errors import Refusal
from sync.price import MICRO_PER_PAISA


@dataclass(frozen=True)
class StatementLine:
    day: int  # days since 1970 in Indian time
    meter: int
    unit: int
    rate: int  # micro-rupees per 1,000 units; 0: counted and free
    calls: int
    quantity: int
    amount: int  # micro-rupees


@dataclass(frozen=True)
class StatementPayment:
    reference: str
    utr: str
    amount_paise: int
    confirmed_ms: int


@dataclass(frozen=True)
class Statement:
    customer: Customer
    first: date
    last: date
    opening: int  # micro-rupees
    closing: int  # micro-rupees
    calls: int
    lines: list[StatementLine]
    payments: list[StatementPayment]
    adjustments: list[Adjustment]
    final: bool  # False: the same period may show more later

    @property
    def usage(self) -> int:
        """Micro-rupees."""
        return sum(line.amount for line in self.lines)

    @property
    def usage_paise(self) -> int:
        """The usage rounded once, half up."""
        return (self.usage + MICRO_PER_PAISA // 2) // MICRO_PER_PAISA

    @property
    def adjusted(self) -> int:
        """Micro-rupees."""
        return sum(adjustment.amount for adjustment in self.adjustments)

    @property
    def paid_paise(self) -> int:
        return sum(payment.amount_paise for payment in self.payments)


def make_statement(database: Database, id: str, first: date | None, last: date | None, now_ms: int) -> Statement:
    """Over whole days in India, both included; None: all that was posted, until today. Raises Refusal."""
    with database.transaction() as connection:
        customer = customers.find(connection, id)
        # A clock that was ahead, when the customer was added or when something was posted, leaves nothing out.
        earliest_ms, latest_ms = accounts.posted_span_ms(connection, id) or (now_ms, now_ms)
        first = first or day_in_india(min(customer.created_ms, now_ms, earliest_ms))
        last = last or max(first, day_in_india(max(now_ms, latest_ms)))
        if first > last:
            raise Refusal(422, "bad_field", "to: must not be before from")
        if last < day_in_india(now_ms):
            customers.close(connection, id, _end_ms(last))
    with database.snapshot() as connection:  # A snapshot, so that the figures agree.
        return _make(connection, customers.find(connection, id), first, last)


def _end_ms(day: date) -> int:
    return day_start_ms(day) + DAY_MS


def _make(connection: Connection, customer: Customer, first: date, last: date) -> Statement:
    begin, end = day_start_ms(first), _end_ms(last)
    period = {"customer": customer.id, "begin": begin, "end": end, "ist": INDIA_MS, "day": DAY_MS}
    with connection.cursor(row_factory=class_row(StatementLine)) as cursor:
        lines = cursor.execute(
            "select (used_ms + %(ist)s) / %(day)s as day, meter, line.unit, line.rate, count(*) as calls,"
            " sum(line.quantity)::bigint as quantity, sum(line.amount)::bigint as amount from records,"
            " unnest(units, rates, quantities, amounts) as line (unit, rate, quantity, amount)"
            " where customer = %(customer)s and posted_ms >= %(begin)s and posted_ms < %(end)s"
            " group by 1, 2, 3, 4 order by 1, 2, 3, 4",
            period,
        ).fetchall()
    with connection.cursor(row_factory=class_row(StatementPayment)) as cursor:
        payments = cursor.execute(
            "select reference, utr, payments.amount_paise, confirmed_ms from payments join topups using (reference)"
            " where customer = %(customer)s and confirmed_ms >= %(begin)s and confirmed_ms < %(end)s"
            " order by confirmed_ms, utr",
            period,
        ).fetchall()
    row = connection.execute(
        "select count(*) from records where customer = %(customer)s and posted_ms >= %(begin)s and posted_ms < %(end)s",
        period,
    ).fetchone()
    assert row is not None
    opening = accounts.balance_before(connection, customer.id, begin)
    closing = accounts.balance_before(connection, customer.id, end)
    adjusted = adjustments.list_between(connection, customer.id, begin, end)
    calls, final = int(row[0]), customer.closed_ms >= end
    return Statement(customer, first, last, opening, closing, calls, lines, payments, adjusted, final)
