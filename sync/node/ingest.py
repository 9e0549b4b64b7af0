"""Takes a segment: checked, rated, posted and answered with a signed receipt, all in one transaction.

Each (device, epoch, seq) is billed once for ever, in whatever order and how often segments come:
a segment that begins after the head is a gap (409), one that overlaps it must hold the very records that are stored.
A device whose key signed two different records for one place has been copied; its epoch is frozen, and both segments
are kept. A record counts only under a lease and price book that were issued together to that box.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace

from sync import record as record_format
from sync.node import accounts, books, customers, devices, evidence, leases, records, topups
from sync.node.context import Node
from sync.node.database import Connection
from sync.node.devices import Epoch
from sync.node.errors import Refusal
from sync.node.lease_ids import is_issued, make_id
from sync.node.records import RatedRecord
from sync.record import Record
from sync.segment import Receipt, Segment, SignedReceipt, SignedSegment, verify_chain
from sync.signature import BadSignature

CLOCK_BACK_MS_MAX = 5 * 60 * 1000  # a clock that is set right goes back by seconds
SEGMENT_COST_MAX = 10**13  # ₹1 crore: keeps every sum far inside 64 bits
# An honest box never sends these, so the operator must see them; the box itself goes on trying.
_SUSPECT = {"fork", "inconsistent", "implausible", "unknown_price_book", "unknown_lease"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewRecord:
    record: Record
    canonical: bytes
    link: bytes


class Gap(Exception):
    """The segment begins beyond what is taken: send again from `acked + 1`."""

    def __init__(self, acked: int, link: bytes) -> None:
        super().__init__(f"records from {acked + 1} on are missing")
        self.acked = acked
        self.link = link


class _Fork(Exception):
    """The segment contradicts record `seq`, which is stored."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"record {seq} was signed twice")
        self.seq = seq


def ingest(node: Node, signed: SignedSegment) -> SignedReceipt:
    """Raises Gap, or Refusal with the reason; one that calls for the operator is noted for them."""
    try:
        segment = Segment.from_bytes(signed.payload)
    except ValueError as error:
        raise Refusal(400, "malformed", str(error)) from None
    try:
        return _take(node, segment, signed)
    except Refusal as refusal:
        if refusal.code in _SUSPECT:
            _note(node, segment, refusal)
        raise


def _note(node: Node, segment: Segment, refusal: Refusal) -> None:
    """In the log once, and in the list of devices until a segment of the box is taken again."""
    with node.database.transaction() as connection:
        news = devices.refuse(connection, segment.device, segment.epoch, refusal.code, node.clock.wall_ms())
    if news:
        log.error(
            "device %s, epoch %d: %s: %s; see `nukkad node devices`",
            segment.device.hex(),
            segment.epoch,
            refusal.code,
            refusal.message,
        )


def _take(node: Node, segment: Segment, signed: SignedSegment) -> SignedReceipt:
    with node.database.transaction() as connection:
        epoch = _authenticate(connection, segment, signed)
        now_ms = node.clock.wall_ms()
        if now_ms < epoch.seen_ms - CLOCK_BACK_MS_MAX:
            log.error(
                "the node's clock is %d s behind what it was when device %s was last heard of: set it right; if it was"
                " ahead then, what was posted since may stand on statements of days to come",
                (epoch.seen_ms - now_ms) // 1000,
                epoch.device.hex(),
            )
        posted_ms = customers.lock_to_post(connection, epoch.customer, now_ms)
        if epoch.frozen_ms is not None:
            raise Refusal(
                422, "device_frozen", "this device was found to be two: nothing more is taken until it enrols again"
            )
        try:
            new = _continue(connection, epoch, segment)
        except _Fork as fork:
            devices.freeze(connection, epoch, now_ms)
            evidence.keep_fork(connection, epoch, fork.seq, signed, now_ms)
        else:
            head = epoch
            if new:
                head = _bill(node, connection, epoch, new, now_ms=now_ms, posted_ms=posted_ms)
                evidence.keep_signature(connection, segment, signed)
            leases.adopt(connection, epoch, segment.lease)
            return _answer(node, connection, head, now_ms)
    # Raised only here, after the commit: the freeze must stay.
    raise Refusal(
        422, "fork", "two different records were signed for one place: the device is frozen until it enrols again"
    )


def _authenticate(connection: Connection, segment: Segment, signed: SignedSegment) -> Epoch:
    """The segment's epoch, locked, after checking who signed."""
    unknown = Refusal(401, "unauthorized", "the segment is not signed by a key enrolled for its device and epoch")
    found = devices.find(connection, segment.device, segment.epoch)
    if found is None:
        raise unknown
    try:
        signed.verify(found.public_key)
    except BadSignature:
        raise unknown from None
    devices.lock(connection, segment.device)
    locked = devices.find(connection, segment.device, segment.epoch)
    assert locked is not None, "an epoch is never removed"
    return locked


def _continue(connection: Connection, epoch: Epoch, segment: Segment) -> list[NewRecord]:
    """The records beyond the head. Raises Gap, _Fork, Refusal."""
    if segment.first > epoch.acked + 1:
        raise Gap(epoch.acked, epoch.link)
    try:
        decoded = verify_chain(segment)
    except ValueError as error:
        raise Refusal(422, "inconsistent", str(error)) from None
    links = [segment.link_before]
    for data in segment.records:
        links.append(record_format.link(links[-1], data))
    # Equal links mean equal histories, so the last place that both know says everything.
    common = min(epoch.acked, segment.last)
    if links[common - segment.first + 1] != records.link_at(connection, epoch.device, epoch.epoch, common):
        raise _Fork(_first_difference(connection, epoch, segment.first - 1, links[: common - segment.first + 2]))
    return [
        NewRecord(one, data, link)
        for one, data, link in zip(decoded, segment.records, links[1:], strict=True)
        if one.seq > epoch.acked
    ]


def _first_difference(connection: Connection, epoch: Epoch, seq: int, links: list[bytes]) -> int:
    """The first of the records from `seq` on whose link is not the one stored."""
    stored = records.links(connection, epoch.device, epoch.epoch, seq, len(links))
    return next(at for at, (link, taken) in enumerate(zip(links, stored, strict=True), seq) if link != taken)


def _bill(
    node: Node, connection: Connection, epoch: Epoch, new: list[NewRecord], *, now_ms: int, posted_ms: int
) -> Epoch:
    """Rates and posts the records, with one posting for the wallet and one for each meter; returns the new head."""
    rated = _rate(node, connection, epoch, new, now_ms)
    amounts: Counter[str] = Counter()
    for one in rated:
        amounts[accounts.revenue(one.record.draft.meter)] -= one.cost
    cost = -amounts.total()
    if cost > SEGMENT_COST_MAX:
        raise Refusal(422, "implausible", "the segment's cost is beyond any box's: nothing of it is taken")
    entry = None
    if cost:
        amounts[accounts.wallet(epoch.customer)] = cost
        reference = f"usage:{epoch.device.hex()}:{epoch.epoch}:{rated[0].record.seq}-{rated[-1].record.seq}"
        entry = accounts.post(connection, "usage", reference, amounts, posted_ms)
    records.insert(connection, epoch.customer, rated, entry, posted_ms)
    leases.charge(connection, epoch, cost)
    last = rated[-1]
    head = replace(epoch, acked=last.record.seq, link=last.link, used_ms=last.used_ms)
    devices.advance(connection, head)
    return head


def _rate(node: Node, connection: Connection, epoch: Epoch, new: list[NewRecord], now_ms: int) -> list[RatedRecord]:
    known = books.find(connection, {one.record.draft.price_book for one in new})
    used_ms = epoch.used_ms
    rated = []
    for one in new:
        book = known.get(one.record.draft.price_book)
        if book is None:
            raise Refusal(
                422,
                "unknown_price_book",
                f"record {one.record.name} names price book {one.record.draft.price_book.hex()[:16]}…,"
                " which this node never issued",
            )
        draft = one.record.draft
        if not is_issued(node.key, epoch.device, epoch.epoch, draft.price_book, draft.lease):
            raise Refusal(
                422,
                "unknown_lease",
                f"record {one.record.name} names a lease and price book that were never issued together to this box",
            )
        # The box's clock may be wrong: use is dated no earlier than the record before, and never after now.
        used_ms = min(max(one.record.wall_ms, used_ms), now_ms)
        rated.append(records.rate_record(one.record, one.canonical, one.link, used_ms, book))
    return rated


def _answer(node: Node, connection: Connection, head: Epoch, now_ms: int) -> SignedReceipt:
    """The receipt for this head with a new lease, signed."""
    balance = accounts.balance(connection, head.customer)
    told_ms = max(now_ms, head.told_ms)
    devices.see(connection, head.device, head.epoch, now_ms, told_ms)
    book = books.in_force(connection, now_ms)
    lease_id = make_id(node.key, head.device, head.epoch, book.digest, node.random)
    lease = leases.grant(connection, head, balance, id=lease_id, now_ms=now_ms, told_ms=told_ms, settings=node.settings)
    topup = topups.standing(connection, head.customer, now_ms, node.random)
    receipt = Receipt(
        device=head.device,
        epoch=head.epoch,
        acked=head.acked,
        link=head.link,
        node_ms=told_ms,
        balance=balance,
        lease=lease,
        price_book=book.to_json(),
        topup=topup.show(node.settings, now_ms),
    )
    return SignedReceipt.seal(receipt.to_bytes(), node.key)
