"""Records as billed: each (device, epoch, seq) once for ever, with its rated lines and the entry that posted them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sync.node.database import Connection
from sync.price import PriceBook, rate
from sync.record import FIRST_LINK, Record


@dataclass(frozen=True)
class RatedRecord:
    record: Record
    canonical: bytes
    link: bytes
    used_ms: int
    units: list[int]
    quantities: list[int]
    rates: list[int]  # micro-rupees per 1,000 units; 0 where the unit is free
    amounts: list[int]  # micro-rupees

    @property
    def cost(self) -> int:
        return sum(self.amounts)


def rate_record(record: Record, canonical: bytes, link: bytes, used_ms: int, book: PriceBook) -> RatedRecord:
    """Free units are kept beside the billed ones, so that a statement shows everything that was counted."""
    lines = {line.unit: line for line in rate(book, record.draft.meter, record.draft.units)}
    units = sorted(record.draft.units)
    return RatedRecord(
        record,
        canonical,
        link,
        used_ms,
        units=[int(unit) for unit in units],
        quantities=[record.draft.units[unit] for unit in units],
        rates=[lines[unit].rate if unit in lines else 0 for unit in units],
        amounts=[lines[unit].amount if unit in lines else 0 for unit in units],
    )


def link_at(connection: Connection, device: bytes, epoch: int, seq: int) -> bytes:
    """Link of a record that was taken; of the one before the first, 32 zeros."""
    if seq == 0:
        return FIRST_LINK
    row = connection.execute(
        "select link from records where device = %s and epoch = %s and seq = %s", (device, epoch, seq)
    ).fetchone()
    assert row is not None, "every record up to the head is stored"
    return bytes(row[0])


def links(connection: Connection, device: bytes, epoch: int, seq: int, count: int) -> list[bytes]:
    """Links of `count` records from `seq` on, all of which were taken; 0 stands before the first."""
    rows = connection.execute(
        "select link from records where device = %s and epoch = %s and seq >= %s and seq < %s order by seq",
        (device, epoch, seq, seq + count),
    ).fetchall()
    return [*([FIRST_LINK] if seq == 0 else []), *(bytes(row[0]) for row in rows)]


def insert(
    connection: Connection, customer: str, rated: Sequence[RatedRecord], entry: int | None, posted_ms: int
) -> None:
    columns = (
        "device, epoch, seq, link, canonical, customer, meter, outcome, used_ms, posted_ms, price_book,"
        " units, quantities, rates, amounts, entry"
    )
    with connection.cursor().copy(f"copy records ({columns}) from stdin") as copy:
        for one in rated:
            copy.write_row(_row(one, customer, entry, posted_ms))


def _row(one: RatedRecord, customer: str, entry: int | None, posted_ms: int) -> tuple[object, ...]:
    record, draft = one.record, one.record.draft
    return (
        record.device, record.epoch, record.seq, one.link, one.canonical, customer, int(draft.meter),
        int(draft.outcome), one.used_ms, posted_ms, draft.price_book,
        one.units, one.quantities, one.rates, one.amounts, entry,
    )  # fmt: skip
