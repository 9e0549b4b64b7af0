"""The ledger of a box: hash-linked records on a disk, appended for ever, durable before anybody is told.

Commits are grouped: one writer thread takes every append that waits, writes them in one transaction and lets the
disk sync once. A lone append waits for nobody.

What this cannot do: whoever is root on the box can stop recording, or rewrite the file and its links as a whole.
Prepaid leases bound the first, and the node's receipt (which holds the link of a record) shows the second.
"""

import fcntl
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from datetime import date
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import apsw

from sync.clock import Clock, day_number, day_of_number, number_of_day
from sync.errors import LedgerCorrupt, LedgerLocked, LedgerUnavailable, OtherHistory
from sync.group_commit import Writer
from sync.identity import sync_folder
from sync.price import PriceBook, rate
from sync.record import FIRST_LINK, Draft, Meter, Record, Unit, decode, encode, link
from sync.segment import Receipt, SignedReceipt

READ_MAX = 1000  # records read at once
TAIL = 1000  # records verified at every open

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE price_books (digest BLOB PRIMARY KEY, json BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    seq INTEGER PRIMARY KEY,
    data BLOB NOT NULL,
    link BLOB NOT NULL,
    total INTEGER NOT NULL
) STRICT;
-- The canonical bytes of a record end with its request id.
CREATE UNIQUE INDEX records_by_request ON records (substr(data, -16));
CREATE TRIGGER records_stand BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'a record is for ever'); END;
CREATE TRIGGER records_stay BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'a record is for ever'); END;
CREATE TRIGGER records_follow BEFORE INSERT ON records
    WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM records)
    BEGIN SELECT RAISE(ABORT, 'a record follows the last one'); END;
CREATE TABLE totals (
    day INTEGER,
    key_id INTEGER,
    meter INTEGER,
    unit INTEGER,
    price_book BLOB,
    quantity INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, meter, unit, price_book)
) STRICT, WITHOUT ROWID;
"""
_FIND = "SELECT data FROM records WHERE substr(data, -16) = ?"
_ADD_TOTAL = """
INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET quantity = quantity + excluded.quantity, amount = amount + excluded.amount
"""


class Row(NamedTuple):
    """A record as it stands in the chain."""

    seq: int
    data: bytes  # canonical bytes of the record
    link: bytes
    total: int  # micro-rupees of all records up to and with this one


class Total(NamedTuple):
    """What one key used of one unit of one meter on one day in India, rated by one price book."""

    day: date
    key_id: int
    meter: Meter
    unit: Unit
    price_book: bytes
    quantity: int
    amount: int  # micro-rupees


class _State(NamedTuple):
    """What is kept in memory, as of the last commit; replaced whole, so any thread may look."""

    head: Row
    receipt: Receipt | None
    told_ms: int  # the node's time as its newest receipt told it, less this machine's monotonic clock when that came
    books: Mapping[bytes, PriceBook]


class Ledger:
    """One open ledger file of one device and epoch. All methods may be called from any thread.

    Raises LedgerError at opening; reading raises LedgerUnavailable or LedgerCorrupt when the disk fails.
    """

    def __init__(
        self,
        path: Path,
        device: bytes,
        epoch: int,
        boot: bytes,
        clock: Clock,
        *,
        node_key: bytes | None = None,
        vfs: str | None = None,
    ) -> None:
        """`boot`: 16 fresh random bytes. `node_key`: the pinned node's public key; None: not enrolled, so no receipts.

        `vfs`: a registered SQLite file system, so that tests can hold the disk.
        """
        self.path = path
        self._device, self._epoch, self._boot, self._clock, self._node_key = device, epoch, boot, clock, node_key
        self._read_lock = threading.Lock()
        with self._disk(), ExitStack() as opening:
            opening.enter_context(_lock(path))
            path.touch(mode=0o600)
            self._write = _connect(path, vfs)
            opening.callback(self._write.close)
            self._reading = _connect(path, vfs)
            opening.callback(self._reading.close)
            self._reading.execute("PRAGMA query_only = ON")
            self._create()
            self._state = self._pending = self._recover()
            self._opened = opening.pop_all()
        self._jobs = Writer(self._write, f"ledger {path}", self._begin, self._committed)

    def close(self) -> None:
        """Writes what waits, then lets the file go. Appends are refused from the call on."""
        self._jobs.close()
        with self._disk():
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing: every change goes through the queue to the one writer.

    def append(self, draft: Draft) -> "Future[Record]":
        """Resolves when the record is durable. Idempotent by `request_id`: the same draft again gives its record.

        Cannot be cancelled: a caller who leaves does not take the record along. LedgerUnavailable, raised or in the
        future: not recorded (after a failed disk sync it may be found recorded at the next start). ValueError in the
        future: the draft names a price book that is not stored, or another call's request_id.
        """
        return self._jobs.submit(lambda: self._append(draft))

    def store_price_book(self, book: PriceBook) -> "Future[None]":
        """Idempotent. A book stays for ever, as the records made under it do.

        ValueError in the future for a new book that rates tokens.
        """
        return self._jobs.submit(lambda: self._store_book(book.to_json()))

    def store_receipt(self, signed: SignedReceipt) -> "Future[Receipt]":
        """Keeps the node's newest receipt with its lease, price book and top-up.

        ValueError in the future: not signed by the pinned node, not for this box, older than the one held, or
        with a new price book that rates tokens;
        OtherHistory, which is one, when the node signed for a record that is not in this ledger.
        """
        return self._jobs.submit(lambda: self._store_receipt(signed))

    def check_writable(self) -> None:
        """Raises LedgerUnavailable while no record can be made: what is served then could never be billed."""
        self._jobs.check()

    @property
    def failed(self) -> "Future[None]":
        """Done once nothing can be written until the file is opened anew; `check_writable` says why."""
        return self._jobs.failed

    # Reading: what was committed.

    def head(self) -> Row:
        """The last record; seq 0, no data and 32 zeros before the first."""
        return self._state.head

    def receipt(self) -> Receipt | None:
        """The newest receipt: how far the node has billed, the lease, the price book and the top-up in force."""
        return self._state.receipt

    def node_ms(self) -> int:
        """The node's last word on the time, plus the time since it came or, after a restart, since the ledger opened.

        Only the monotonic clock counts, so no wall clock moves it; 0 before the first receipt.
        """
        state = self._state
        return state.told_ms + self._monotonic_ms() if state.receipt else 0

    def price_book(self, digest: bytes) -> PriceBook | None:
        return self._state.books.get(digest)

    def spent(self, after: int) -> int:
        """Micro-rupees of all records after seq `after`, exactly."""
        return self._state.head.total - self.row(after).total

    def row(self, seq: int) -> Row:
        """Raises ValueError for a seq beyond the head. Seq 0 is what stands before the first record."""
        head = self.head()
        if seq == head.seq:
            return head
        if not 0 <= seq < head.seq:
            raise ValueError(f"seq: there is no record {seq}, the last is {head.seq}")
        return self.rows(seq - 1, 1)[0] if seq else _START

    def rows(self, after: int, limit: int = READ_MAX) -> list[Row]:
        """At most `limit` (up to READ_MAX) rows after seq `after`, in order."""
        sql = "SELECT seq, data, link, total FROM records WHERE seq > ? ORDER BY seq LIMIT ?"
        return [Row(*row) for row in self._read(sql, (after, min(limit, READ_MAX)))]

    def records(self, after: int, limit: int = READ_MAX) -> list[Record]:
        return [decode(row.data) for row in self.rows(after, limit)]

    def find(self, request_id: bytes) -> Record | None:
        """The record of a call, if it was recorded."""
        found = self._read(_FIND, (request_id,))
        return decode(found[0][0]) if found else None

    def totals(self, since: date, until: date) -> list[Total]:
        """Use and exact cost of the days `since` … `until`, both included, in India's days; ordered by day."""
        sql = "SELECT * FROM totals WHERE day BETWEEN ? AND ? ORDER BY day, key_id, meter, unit, price_book"
        rows = self._read(sql, tuple(map(number_of_day, (since, until))))
        return [
            Total(day_of_number(day), key_id, Meter(meter), Unit(unit), book, quantity, amount)
            for day, key_id, meter, unit, book, quantity, amount in rows
        ]

    def verify(self, after: int = 0) -> int:
        """Checks every record after seq `after` against the one before, and with `after` 0 the whole file.

        The count of records checked. Raises LedgerCorrupt at the first that does not hold. About 40 s for a million.
        """
        # One statement, so that the last record and the totals are of the same moment.
        kept = self._read("SELECT last, totals.* FROM (SELECT max(seq) AS last FROM records) LEFT JOIN totals")
        last = kept[0][0] or 0
        before = self.row(after)
        sums: dict[tuple[Any, ...], tuple[int, int]] = {}
        while before.seq < last and (rows := self.rows(before.seq)):
            for row in rows[: last - before.seq]:
                self._verify_row(before, row, sums)
                before = row
        if after == 0:
            if sums != {row[1:6]: row[6:] for row in kept if row[1] is not None}:
                raise self._corrupt("the totals are not the sums of the records")
            if (found := self._read("PRAGMA integrity_check(1)")) != [("ok",)]:
                raise self._corrupt(f"SQLite finds it damaged ({found[0][0]})")
        return before.seq - after

    # Jobs of the writer: each checks before it writes.

    def _begin(self) -> None:
        self._pending = self._state

    def _committed(self) -> None:
        self._state = self._pending

    def _append(self, draft: Draft) -> Record:
        found: Any = self._write.execute(_FIND, (draft.request_id,)).get
        if found:
            record = decode(found)
            if record.draft != draft:
                raise ValueError("request_id: it stands on the record of another call")
            return record
        book = self._pending.books.get(draft.price_book)
        if book is None:
            raise ValueError("price_book: not stored in this ledger; call store_price_book first")
        head, now = self._pending.head, self._clock.wall_ms()
        record = Record(self._device, self._epoch, head.seq + 1, self._boot, self._clock.monotonic_ns(), now, draft)
        data, lines = encode(record), _lines(record, book)
        row = Row(record.seq, data, link(head.link, data), head.total + sum(line[-1] for line in lines))
        self._write.execute("INSERT INTO records VALUES (?, ?, ?, ?)", row)
        self._write.executemany(_ADD_TOTAL, lines)
        self._pending = self._pending._replace(head=row)
        return record

    def _store_book(self, data: bytes) -> None:
        book = PriceBook.from_json(data)
        if book.digest not in self._pending.books:
            book.check_new()
        self._write.execute("INSERT INTO price_books VALUES (?, ?) ON CONFLICT DO NOTHING", (book.digest, data))
        self._pending = self._pending._replace(books={**self._pending.books, book.digest: book})

    def _store_receipt(self, signed: SignedReceipt) -> Receipt:
        receipt = self._check_receipt(signed)
        held = self._pending.receipt
        if held and receipt.node_ms < held.node_ms:
            raise ValueError("receipt.node_ms: the receipt is older than the one held")
        self._store_book(receipt.price_book)
        self._write.execute(
            "INSERT INTO facts VALUES ('receipt', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (signed.to_bytes(),),
        )
        # The same receipt again is no newer word: a replayed answer must not stop the time.
        if receipt != held:
            self._pending = self._pending._replace(receipt=receipt, told_ms=receipt.node_ms - self._monotonic_ms())
        return receipt

    def _monotonic_ms(self) -> int:
        return self._clock.monotonic_ns() // 1_000_000

    # Opening and checking.

    def _create(self) -> None:
        """The tables of an empty file; of another file, the proof that it is this box's ledger."""
        own = {"device": self._device, "epoch": self._epoch.to_bytes(8, "big")}
        if not _schema(self._write):
            with self._write:
                self._write.execute(_SCHEMA)
                self._write.executemany("INSERT INTO facts VALUES (?, ?)", tuple(own.items()))
            sync_folder(self.path.parent)
        model = apsw.Connection(":memory:")
        model.execute(_SCHEMA)
        if _schema(self._write) != _schema(model):
            raise self._corrupt("its tables are not those of a ledger of this version")
        facts: dict[Any, Any] = dict(self._read("SELECT name, value FROM facts"))
        if own.items() - facts.items() or facts.keys() - own.keys() - {"receipt"}:
            raise self._corrupt("it belongs to another device or epoch")

    def _recover(self) -> _State:
        """The state of the file as it is found, with its last TAIL records and the receipt's place in it verified."""
        books = {}
        for digest, data in self._read("SELECT digest, json FROM price_books"):
            if not isinstance(data, bytes) or sha256(data).digest() != digest:
                raise self._corrupt("a price book has been altered")
            books[digest] = PriceBook.from_json(data)
        last = self._read("SELECT seq, data, link, total FROM records ORDER BY seq DESC LIMIT 1")
        self._state = _State(Row(*last[0]) if last else _START, None, 0, books)
        self.verify(after=max(0, self._state.head.seq - TAIL))
        receipt = self._kept_receipt()
        told_ms = receipt.node_ms - self._monotonic_ms() if receipt else 0
        return self._state._replace(receipt=receipt, told_ms=told_ms)

    def _kept_receipt(self) -> Receipt | None:
        kept = self._read("SELECT value FROM facts WHERE name = 'receipt'")
        if not kept:
            return None
        try:
            return self._check_receipt(SignedReceipt.from_bytes(kept[0][0]))
        except ValueError as error:
            raise self._corrupt(
                f"the node's receipt does not fit ({error}); an older copy may have been restored"
            ) from error

    def _check_receipt(self, signed: SignedReceipt) -> Receipt:
        """Raises ValueError unless the pinned node signed it for this very chain."""
        if self._node_key is None:
            raise ValueError("receipt: this box is not enrolled with a node")
        signed.verify(self._node_key)
        receipt = Receipt.from_bytes(signed.payload)
        if (receipt.device, receipt.epoch, receipt.lease.epoch) != (self._device, self._epoch, self._epoch):
            raise ValueError("receipt.device: the receipt is for another box or epoch")
        if receipt.acked > self.head().seq or receipt.link != self.row(receipt.acked).link:
            raise OtherHistory(receipt.acked)
        if receipt.lease.from_seq > receipt.acked:
            raise ValueError("receipt.lease.from_seq: beyond what is acknowledged")
        return receipt

    def _verify_row(self, before: Row, row: Row, sums: dict[tuple[Any, ...], tuple[int, int]]) -> None:
        """Raises LedgerCorrupt unless `row` follows from `before`; adds what it used to `sums`."""
        try:
            record = decode(row.data)
        except ValueError as error:
            raise self._corrupt(f"record {before.seq + 1} cannot be read ({error})") from error
        place = (self._device, self._epoch, before.seq + 1, before.seq + 1)
        if (record.device, record.epoch, record.seq, row.seq) != place or row.link != link(before.link, row.data):
            raise self._corrupt(f"record {row.seq} does not follow from record {before.seq}")
        book = self._state.books.get(record.draft.price_book)
        if book is None:
            raise self._corrupt(f"the price book of record {row.seq} is missing")
        lines = _lines(record, book)
        if row.total != before.total + sum(line[-1] for line in lines):
            raise self._corrupt(f"the total at record {row.seq} is not the sum of the costs")
        for *group, quantity, amount in lines:
            sum_before = sums.get(tuple(group), (0, 0))
            sums[tuple(group)] = (sum_before[0] + quantity, sum_before[1] + amount)

    def _read(self, sql: str, bindings: tuple[Any, ...] = ()) -> list[Any]:
        with self._read_lock, self._disk():
            return self._reading.execute(sql, bindings).fetchall()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turns what SQLite and the system say into LedgerError."""
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
            raise self._corrupt(str(error)) from error
        except (apsw.Error, OSError) as error:
            raise LedgerUnavailable(f"ledger {self.path}: {error}; check that the disk works and has space") from error

    def _corrupt(self, what: str) -> LedgerCorrupt:
        return LedgerCorrupt(
            f"ledger {self.path}: {what}. Nothing was changed. Keep the file as evidence: move the whole "
            "state folder aside and enrol the box anew"
        )


_START = Row(0, b"", FIRST_LINK, 0)


def _lines(record: Record, book: PriceBook) -> list[tuple[Any, ...]]:
    """What a record adds to the totals: day, key, meter, unit, price book, quantity, micro-rupees."""
    draft = record.draft
    amounts = {line.unit: line.amount for line in rate(book, draft.meter, draft.units)}
    group = (day_number(record.wall_ms), draft.key_id, int(draft.meter))
    return [
        (*group, int(unit), draft.price_book, quantity, amounts.get(unit, 0))
        for unit, quantity in draft.units.items()
        if quantity
    ]


def _schema(connection: apsw.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name").fetchall()


def _connect(path: Path, vfs: str | None) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=vfs)
    connection.set_busy_timeout(5000)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "mmap_size = 0", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time, until it ends in whatever way. The lock has a file of its own: SQLite locks the other."""
    with Path(f"{path}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerLocked(f"ledger {path}: another box has it open; stop that one first") from None
        yield
