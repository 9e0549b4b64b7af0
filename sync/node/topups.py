"""Top-ups: requests for money, each with its own `tr`, and the payments that answer them.

A customer always has one standing top-up, of no fixed amount, so that even a box that is unplugged with an empty wallet
has a link to show. A payment is known by its UTR, the bank's number of it, and is credited once for ever.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row

from sync.node import accounts, customers, upi
from sync.node.database import Connection
from sync.node.errors import Refusal
from sync.node.settings import PAISE_MAX, Settings
from sync.price import MICRO_PER_PAISA
from sync.segment import TopUp

LIFE_MS = 72 * 3600 * 1000  # how long a box shows it; money that comes later is credited all the same
OPEN_MAX = 50
LEAST_PAISE = 100

_UTR = re.compile(r"[0-9]{12}|[A-Z0-9]{22}")  # UPI and IMPS; RTGS
_REFERENCE = re.compile(r"[A-Z0-9]{1,35}")


@dataclass(frozen=True)
class StoredTopUp:
    reference: str
    customer: str
    amount_paise: int
    standing: bool
    created_ms: int
    expires_ms: int | None
    paid_ms: int | None
    utr: str | None
    paid_paise: int | None

    def status(self, now_ms: int) -> str:
        if self.paid_ms is not None:
            return "paid"
        return "expired" if self.expires_ms is not None and now_ms > self.expires_ms else "open"

    def show(self, settings: Settings, now_ms: int) -> TopUp:
        note = "Nukkad top-up"
        link = upi.make_link(settings.payee_vpa, settings.payee_name, self.reference, self.amount_paise, note)
        return TopUp(self.reference, self.amount_paise, link, self.status(now_ms))


@dataclass(frozen=True)
class Confirmation:
    topup: StoredTopUp
    credited: bool  # False: this payment had been credited before, and nothing was credited now


_SELECT = (
    "select topups.reference, customer, topups.amount_paise, standing, created_ms, expires_ms, paid_ms, utr,"
    " payments.amount_paise as paid_paise from topups left join payments on payments.reference = topups.reference"
)


def request(
    connection: Connection,
    customer: str,
    device: bytes,
    request_id: str,
    amount_paise: int,
    *,
    now_ms: int,
    random: Callable[[int], bytes],
) -> StoredTopUp:
    """A top-up of a fixed amount; the same request again is the same top-up. Raises Refusal."""
    customers.lock(connection, customer)
    with connection.cursor(row_factory=class_row(StoredTopUp)) as cursor:
        query = f"{_SELECT} where device = %s and request_id = %s"
        found = cursor.execute(query, (device, request_id)).fetchone()
    if found is not None:
        if found.amount_paise != amount_paise:
            raise Refusal(409, "request_id_used", "request_id: was used for another amount; make a new one")
        return found
    row = connection.execute(
        "select count(*) from topups where customer = %s and paid_ms is null and expires_ms > %s", (customer, now_ms)
    ).fetchone()
    assert row is not None
    if row[0] >= OPEN_MAX:
        raise Refusal(
            429, "too_many_topups", f"{OPEN_MAX} top-ups are open: pay one of them, or wait until they expire"
        )
    reference = upi.make_reference(random)
    connection.execute(
        "insert into topups (reference, customer, device, request_id, amount_paise, standing, created_ms, expires_ms)"
        " values (%s, %s, %s, %s, %s, false, %s, %s)",
        (reference, customer, device, request_id, amount_paise, now_ms, now_ms + LIFE_MS),
    )
    return find(connection, reference)


def standing(connection: Connection, customer: str, now_ms: int, random: Callable[[int], bytes]) -> StoredTopUp:
    """The customer's standing top-up, made if there is none. The caller has locked the customer."""
    with connection.cursor(row_factory=class_row(StoredTopUp)) as cursor:
        query = f"{_SELECT} where customer = %s and standing and paid_ms is null"
        found = cursor.execute(query, (customer,)).fetchone()
    if found is not None:
        return found
    reference = upi.make_reference(random)
    connection.execute(
        "insert into topups (reference, customer, amount_paise, standing, created_ms) values (%s, %s, 0, true, %s)",
        (reference, customer, now_ms),
    )
    return find(connection, reference)


def find(connection: Connection, reference: str) -> StoredTopUp:
    """Raises Refusal 404."""
    if _REFERENCE.fullmatch(reference):
        with connection.cursor(row_factory=class_row(StoredTopUp)) as cursor:
            found = cursor.execute(f"{_SELECT} where topups.reference = %s", (reference,)).fetchone()
            if found is not None:
                return found
    raise Refusal(404, "unknown_topup", "there is no such top-up: `nukkad node topups` names them")


def list_some(connection: Connection, customer: str | None, limit: int) -> list[StoredTopUp]:
    """The newest first."""
    with connection.cursor(row_factory=class_row(StoredTopUp)) as cursor:
        return cursor.execute(
            f"{_SELECT} where %(customer)s::text is null or customer = %(customer)s"
            " order by created_ms desc, reference limit %(limit)s",
            {"customer": customer, "limit": limit},
        ).fetchall()


def confirm(
    connection: Connection,
    reference: str,
    utr: str,
    amount_paise: int | None,
    *,
    now_ms: int,
    random: Callable[[int], bytes],
) -> Confirmation:
    """Credits the wallet with the payment that has this UTR, once for ever. Raises Refusal."""
    utr = utr.upper()
    if not _UTR.fullmatch(utr):
        raise Refusal(422, "bad_field", "utr: must be the bank's 12 digits (UPI) or 22 letters and digits (RTGS)")
    topup = find(connection, reference)
    posted_ms = customers.lock_to_post(connection, topup.customer, now_ms)
    topup = find(connection, reference)
    row = connection.execute("select reference from payments where utr = %s", (utr,)).fetchone()
    if row is not None:
        return _again(topup, row[0])
    if topup.paid_ms is not None:
        raise Refusal(
            409,
            "topup_paid",
            f"{reference} is paid by UTR {topup.utr}; confirm a second payment on the standing top-up",
        )
    paid = _amount(topup, amount_paise)
    micro = paid * MICRO_PER_PAISA
    amounts = {accounts.BANK: micro, accounts.wallet(topup.customer): -micro}
    try:
        with connection.transaction():
            entry = accounts.post(connection, "topup", f"topup:{utr}", amounts, posted_ms)
            connection.execute(
                "insert into payments values (%s, %s, %s, %s, %s)", (utr, reference, paid, entry, posted_ms)
            )
    except psycopg.errors.UniqueViolation:
        # Another customer's top-up was confirmed with this UTR at this moment.
        raise _used() from None
    connection.execute("update topups set paid_ms = %s where reference = %s", (posted_ms, reference))
    if topup.standing:
        standing(connection, topup.customer, now_ms, random)
    return Confirmation(find(connection, reference), credited=True)


def _again(topup: StoredTopUp, reference: str) -> Confirmation:
    if reference != topup.reference:
        raise _used()
    return Confirmation(topup, credited=False)


def _used() -> Refusal:
    return Refusal(409, "utr_used", "utr: this payment was credited to another top-up, and is credited only once")


def _amount(topup: StoredTopUp, amount_paise: int | None) -> int:
    if topup.amount_paise:
        if amount_paise not in (None, topup.amount_paise):
            raise Refusal(
                422,
                "bad_field",
                f"amount_paise: this top-up is of {topup.amount_paise}; use the standing one for others",
            )
        return topup.amount_paise
    if amount_paise is None:
        raise Refusal(422, "bad_field", "amount_paise: needed, for the payer of a standing top-up chose the amount")
    if not LEAST_PAISE <= amount_paise <= PAISE_MAX:
        raise Refusal(422, "bad_field", f"amount_paise: must be {LEAST_PAISE} to {PAISE_MAX}")
    return amount_paise
