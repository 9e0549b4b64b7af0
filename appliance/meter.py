"""reserve → work → commit: nothing is served that cannot be paid for, and nothing is recorded twice or for free.

Room is what the lease grants plus its allowance, less what the records after the lease's start cost, less what calls in
flight have reserved. Reservations live in this process alone: a crash forgets them, and the calls in flight leave no
record. No answer ended then, but the text that a stream had sent by that moment was delivered for free.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from sync.clock import Clock
from sync.ledger import Ledger
from sync.price import PriceBook, cost, rupees
from sync.record import Draft, Meter, Outcome, Record, Unit
from sync.segment import Lease, Receipt
from sync.worker import SyncWorker

Units = Mapping[Unit, int]


class MeterError(Exception):
    """The call may not be made now: AlreadyRecorded, NotEnrolled, or PaymentRequired, of which LeaseExpired is one."""


class AlreadyRecorded(MeterError):
    """A call of this id was served and billed before; serving it again would be for free."""


class NotEnrolled(MeterError):
    """No node has given this box a lease yet, or the node holds another history of it and bills none of its records."""


class PaymentRequired(MeterError):
    """The lease has no room for the call. `topup` is the `upi://pay` link that the node issued."""

    def __init__(self, message: str, topup: str) -> None:
        super().__init__(message)
        self.topup = topup


class LeaseExpired(PaymentRequired):
    """The credit may still be there, but only the node can say so."""


@dataclass(frozen=True)
class Charged:
    """What a call cost, durable. `cost` in micro-rupees; `record` is device:epoch:seq."""

    record: str
    cost: int
    units: dict[Unit, int]
    outcome: Outcome


@dataclass(frozen=True)
class Credit:
    """The lease and what became of it, in micro-rupees."""

    granted: int
    allowance: int
    spent: int
    reserved: int
    expires_ms: int
    expired: bool
    topup: str

    @property
    def left(self) -> int:
        return max(0, self.granted + self.allowance - self.spent - self.reserved)


class CallMeter:
    """The meter of a box, used from the event loop's thread. All calls in flight together stay within the lease."""

    def __init__(self, ledger: Ledger, clock: Clock, worker: SyncWorker | None = None) -> None:
        """`worker`: who hears from the node; None: not enrolled."""
        self._ledger = ledger
        self._clock = clock
        self._worker = worker
        self._reserved = 0
        self._start: tuple[Lease, int] | None = None  # the lease in force and the ledger's total where it starts

    def credit(self) -> Credit | None:
        """None until a node has answered. Raises LedgerUnavailable."""
        receipt = self._ledger.receipt()
        if receipt is None:
            return None
        lease = receipt.lease
        return Credit(
            granted=lease.granted,
            allowance=lease.allowance,
            spent=self._spent(lease),
            reserved=self._reserved,
            expires_ms=lease.expires_ms,
            expired=self._now_ms() >= lease.expires_ms,
            topup=receipt.topup.link,
        )

    def reserve(self, key_id: int, meter: Meter, model: bytes, most: Units, request_id: UUID) -> "Reservation":
        """Room for a call that uses at most these units, to be committed or released: use it in a `with`.

        Raises AlreadyRecorded, NotEnrolled, PaymentRequired, LeaseExpired, LedgerUnavailable.
        """
        if self._ledger.find(request_id.bytes) is not None:
            raise AlreadyRecorded(
                f"request {request_id} was served and billed before: GET /v1/usage/requests/{request_id} shows it; "
                "use a fresh UUID as X-Request-Id for each call"
            )
        self._ledger.check_writable()
        if self._worker is not None and self._worker.conflict is not None:
            raise NotEnrolled(f"this box may not bill: {self._worker.conflict}")
        receipt = self._ledger.receipt()
        if receipt is None:
            raise NotEnrolled(
                "this box has no billing node yet and cannot serve billable calls: run `nukkad enrol CODE` with the "
                "code that the node's operator gave you"
            )
        book = PriceBook.from_json(receipt.price_book)
        reservation = Reservation(self, receipt, book, key_id=key_id, kind=meter, model=model, request_id=request_id)
        reservation.cover(most)
        return reservation

    def _take(self, amount: int) -> None:
        """Raises unless the lease in force has room for `amount` micro-rupees more."""
        credit = self.credit()
        assert credit is not None  # A reservation is only made when there is a receipt, and receipts are never lost.
        if credit.expired:
            ended = datetime.fromtimestamp(credit.expires_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
            clock = "" if self._ledger.node_ms() >= credit.expires_ms else " (or set its clock right, if that is ahead)"
            raise LeaseExpired(
                f"the credit lease of this box ended at {ended}: connect the line and run `nukkad sync` to renew it"
                f"{clock}",
                credit.topup,
            )
        if amount > credit.left:
            raise PaymentRequired(
                f"the credit of this box is used up: ₹{rupees(credit.granted)} was granted and "
                f"₹{rupees(credit.allowance)} allowed beyond it, ₹{rupees(credit.left)} is left and this call may need "
                f"₹{rupees(amount)} more: pay the top-up link (`nukkad topup AMOUNT` shows it), then connect the line",
                credit.topup,
            )
        self._reserved += amount

    def _give_back(self, amount: int) -> None:
        self._reserved -= amount

    def _spent(self, lease: Lease) -> int:
        if self._start is None or self._start[0] != lease:
            self._start = (lease, self._ledger.row(lease.from_seq).total)
        return self._ledger.head().total - self._start[1]

    def _now_ms(self) -> int:
        """The later of the present wall clock and the node's last word plus the monotonic time since it was heard.

        So a clock put back gains nothing, and one that was ahead and came back locks nobody out. After a restart the
        time since counts from the start: only who puts the clock back and restarts the box serves longer, and never
        beyond the credit granted.
        """
        return max(self._clock.wall_ms(), self._ledger.node_ms())


class Reservation:
    """Room held for one call. Leaving the `with` without a commit releases it: a failed call is free."""

    def __init__(
        self,
        meter: CallMeter,
        receipt: Receipt,
        book: PriceBook,
        *,
        key_id: int,
        kind: Meter,
        model: bytes,
        request_id: UUID,
    ) -> None:
        self._meter = meter
        self._receipt = receipt
        self._book = book
        self._key_id = key_id
        self._kind = kind
        self._model = model
        self._request_id = request_id
        self._held = 0
        self._committing = False

    def cover(self, units: Units) -> None:
        """Make sure that the room held pays for `units`; grows it if need be. Raises PaymentRequired when it cannot."""
        more = cost(self._book, self._kind, units) - self._held
        if more > 0:
            self._meter._take(more)
            self._held += more

    async def commit(self, units: Units, outcome: Outcome) -> Charged:
        """The record of the call, durable when this returns; once per reservation. Raises LedgerUnavailable.

        Cancelling the wait does not take the record back: it may still be written.
        """
        assert not self._committing, "a call is recorded once"
        used = dict(units)
        draft = Draft(
            key_id=self._key_id,
            meter=self._kind,
            model=self._model,
            units=used,
            outcome=outcome,
            lease=self._receipt.lease.lease_id,
            price_book=self._book.digest,
            request_id=self._request_id.bytes,
        )
        written = asyncio.wrap_future(self._meter._ledger.append(draft))
        self._committing = True
        written.add_done_callback(self._settle)
        record = await asyncio.shield(written)
        return Charged(record.name, cost(self._book, self._kind, used), used, outcome)

    def _settle(self, written: "asyncio.Future[Record]") -> None:
        """The ledger counts the record now (or refused it): the room held for it is free again."""
        if not written.cancelled():
            written.exception()  # The waiter hears of it; one that was cancelled does not need to.
        self._release()

    def _release(self) -> None:
        self._meter._give_back(self._held)
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committing:
            self._release()
