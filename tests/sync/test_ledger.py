import asyncio
import random
import re
import secrets
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.errors import LedgerCorrupt, LedgerError, LedgerLocked, LedgerUnavailable
from sync.ledger import TAIL, Ledger, Total
from sync.price import PriceBook, cost
from sync.record import FIRST_LINK, Draft, Meter, Unit, encode, link
from sync.segment import Lease, Receipt, SignedReceipt, TopUp
from tests.support.held_clock import HeldClock
from tests.support.usage import BOOK, DEVICE, append, make_draft, open_ledger

NODE_KEY = Ed25519PrivateKey.from_private_bytes(b"n" * 32)
NODE_PUBLIC = NODE_KEY.public_key().public_bytes_raw()
RECORD_COST = 14_000  # of make_draft(): 1,000 code points in at ₹0.010 and 100 out at ₹0.040 a thousand
DEAR_BOOK = PriceBook("dear", 0, {Meter.CHAT: {Unit.POINTS_IN: 1_000_000}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def receipt_for(ledger: Ledger, acked: int, node_ms: int = 1, **changes: object) -> Receipt:
    lease = Lease(b"l" * 16, 1, acked, 1_000_000, 0, 9, 1)
    topup = TopUp("NK1", 0, "upi://pay?tr=NK1", "open")
    receipt = Receipt(DEVICE, 1, acked, ledger.row(acked).link, node_ms, 5, lease, BOOK.to_json(), topup)
    return replace(receipt, **changes)  # type: ignore[arg-type]


def seal(receipt: Receipt) -> SignedReceipt:
    return SignedReceipt.seal(receipt.to_bytes(), NODE_KEY)


def damage(path: Path, sql: str) -> None:
    """Changes the file behind the ledger's back, as someone who knows SQLite would."""
    connection = apsw.Connection(str(path))
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(sql)
    for _, create in triggers:
        connection.execute(str(create))
    connection.close()


def test_an_append_gives_identity_time_and_a_link(path: Path) -> None:
    clock = HeldClock()
    clock.advance(5)
    draft = make_draft()
    with open_ledger(path, clock) as ledger:
        assert (ledger.head().seq, ledger.head().link, ledger.head().total) == (0, FIRST_LINK, 0)
        record = ledger.append(draft).result()
        assert (record.device, record.epoch, record.seq, record.draft) == (DEVICE, 1, 1, draft)
        assert (record.boot, record.wall_ms, record.monotonic_ns) == (b"b" * 16, clock.now_ms, 5_000_000_000)
        assert ledger.head() == (1, encode(record), link(FIRST_LINK, encode(record)), RECORD_COST)
        assert ledger.append(make_draft()).result().seq == 2
    with open_ledger(path) as ledger:
        assert ledger.head().seq == 2
        assert ledger.records(0)[0] == record
        assert ledger.append(make_draft()).result().seq == 3


def test_reads_what_was_written(path: Path) -> None:
    with open_ledger(path) as ledger:
        records = append(ledger, 10)
        assert ledger.records(0) == records
        assert ledger.records(3, limit=2) == records[3:5]
        assert ledger.records(10) == []
        assert ledger.find(records[6].draft.request_id) == records[6]
        assert ledger.find(bytes(16)) is None
        assert [row.total for row in ledger.rows(0)] == [RECORD_COST * (at + 1) for at in range(10)]
        assert ledger.row(0).link == FIRST_LINK
        assert ledger.row(10) == ledger.head()
        assert (ledger.spent(0), ledger.spent(7), ledger.spent(10)) == (140_000, 42_000, 0)
        assert ledger.price_book(BOOK.digest) == BOOK
        assert ledger.price_book(bytes(32)) is None
        for seq in (-1, 11):
            with pytest.raises(ValueError, match=f"there is no record {seq}"):
                ledger.row(seq)
        assert ledger.verify() == 10
        assert ledger.verify(after=4) == 6


def test_a_request_is_recorded_once(path: Path) -> None:
    with open_ledger(path) as ledger:
        draft = make_draft()
        first, again = ledger.append(draft), ledger.append(draft)
        assert first.result() == again.result() == ledger.append(draft).result()
        with pytest.raises(ValueError, match="request_id"):
            ledger.append(replace(draft, key_id=2)).result()
        assert (ledger.head().seq, ledger.head().total) == (1, RECORD_COST)


def test_a_refused_draft_spares_its_neighbours(path: Path) -> None:
    with open_ledger(path) as ledger:
        drafts = [make_draft(), make_draft(price_book=bytes(32)), make_draft()]
        futures = [ledger.append(draft) for draft in drafts]
        with pytest.raises(ValueError, match="price_book: not stored"):
            futures[1].result()
        assert [futures[0].result().seq, futures[2].result().seq] == [1, 2]


def test_a_thousand_appends_at_once_are_a_chain_without_gap(path: Path) -> None:
    with open_ledger(path) as ledger:
        with ThreadPoolExecutor(32) as pool:
            records = list(pool.map(lambda _: ledger.append(make_draft()).result(), range(1000)))
        assert sorted(record.seq for record in records) == list(range(1, 1001))
        assert ledger.verify() == 1000
        assert ledger.spent(0) == 1000 * RECORD_COST
        assert {record.seq: record for record in records} == {record.seq: record for record in ledger.records(0)}


async def test_a_caller_who_leaves_does_not_take_the_record_along(path: Path) -> None:
    with open_ledger(path) as ledger:
        future = ledger.append(draft := make_draft())
        assert not future.cancel()
        waiting = asyncio.wrap_future(ledger.append(other := make_draft()))
        waiting.cancel()
        ledger.append(make_draft()).result()
        assert ledger.find(draft.request_id)
        assert ledger.find(other.request_id)


def test_old_records_keep_the_price_book_they_were_made_under(path: Path) -> None:
    with open_ledger(path) as ledger:
        append(ledger, 1)
        ledger.store_price_book(DEAR_BOOK).result()
        ledger.append(make_draft(price_book=DEAR_BOOK.digest)).result()
        append(ledger, 1)
        assert ledger.spent(0) == 2 * RECORD_COST + 1_000_000
    with open_ledger(path) as ledger:
        assert ledger.price_book(DEAR_BOOK.digest) == DEAR_BOOK
        assert ledger.verify() == 3


def test_totals_are_exact_per_indian_day_key_meter_unit_and_book(path: Path) -> None:
    clock = HeldClock(now_ms=1_790_000_000_000 // 86_400_000 * 86_400_000 + 66_599_999)  # 18:29:59.999 UTC
    today, tomorrow = date(2026, 9, 21), date(2026, 9, 22)
    with open_ledger(path, clock) as ledger:
        ledger.store_price_book(DEAR_BOOK).result()
        drafts: list[tuple[date, Draft]] = []
        for day in (today, tomorrow):  # Midnight in India is 18:30 UTC.
            for key in (1, 2):
                for book in (BOOK, DEAR_BOOK):
                    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: 333 * key, Unit.TOKENS_OUT: 0}
                    drafts += [(day, make_draft(key_id=key, price_book=book.digest, units=units)) for _ in range(3)]
                    for _, draft in drafts[-3:]:
                        ledger.append(draft).result()
            clock.advance(0.001)
        totals = ledger.totals(today, tomorrow)
        assert [total.day for total in totals] == sorted(total.day for total in totals)
        assert len(totals) == 2 * 2 * 2 * 2
        sums: Counter[tuple[object, ...]] = Counter()
        for day, draft in drafts:
            for unit, quantity in draft.units.items():
                sums[(day, draft.key_id, draft.meter, unit, draft.price_book)] += quantity
        assert {total[:5]: total.quantity for total in totals} == +sums
        assert sum(total.amount for total in totals) == ledger.spent(0)
        assert Total(today, 2, Meter.CHAT, Unit.POINTS_IN, BOOK.digest, 1998, 19_980) in totals
        assert {total.day for total in ledger.totals(tomorrow, tomorrow)} == {tomorrow}
        assert ledger.totals(date(2020, 1, 1), date(2020, 1, 1)) == []


def test_a_row_takes_less_than_a_kilobyte_whatever_it_holds(path: Path) -> None:
    largest = dict.fromkeys(Unit, 10**9)
    with open_ledger(path, HeldClock(now_ms=2**62, since_boot_ns=2**62)) as ledger:
        for _ in range(2000):
            ledger.append(make_draft(units=largest, key_id=2**62))
    assert path.stat().st_size / 2000 < 1024


def test_records_cannot_be_changed_removed_or_replaced_through_sqlite(path: Path) -> None:
    with open_ledger(path) as ledger:
        append(ledger, 3)
    connection = apsw.Connection(str(path))
    for sql in (
        "UPDATE records SET total = 0 WHERE seq = 1",
        "DELETE FROM records WHERE seq = 3",
        "INSERT OR REPLACE INTO records SELECT seq, data, link, 0 FROM records WHERE seq = 2",
        "INSERT INTO records VALUES (9, zeroblob(200), zeroblob(32), 0)",
    ):
        with pytest.raises(apsw.ConstraintError, match="a record"):
            connection.execute(sql)
    connection.close()
    with open_ledger(path) as ledger:
        assert ledger.verify() == 3


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE records SET data = zeroblob(length(data)) WHERE seq = 2", "record 2 cannot be read"),
        ("DELETE FROM records WHERE seq = 2", "record 3 does not follow from record 1"),
        ("UPDATE records SET link = zeroblob(32) WHERE seq = 2", "record 2 does not follow from record 1"),
        ("UPDATE records SET total = total - 1 WHERE seq = 2", "total at record 2"),
        ("UPDATE records SET total = total - 1 WHERE seq = 3", "total at record 3"),
        ("UPDATE totals SET amount = 0", "totals are not the sums"),
        ("DELETE FROM totals", "totals are not the sums"),
        ("DELETE FROM price_books", "price book of record 1 is missing"),
        ("UPDATE price_books SET json = zeroblob(length(json))", "price book has been altered"),
        ("UPDATE facts SET value = zeroblob(16) WHERE name = 'device'", "belongs to another device or epoch"),
        ("UPDATE facts SET name = 'reciept' WHERE name = 'epoch'", "belongs to another device or epoch"),
        ("DROP INDEX records_by_request", "its tables are not those of a ledger"),
        ("CREATE TABLE prompts (text TEXT)", "its tables are not those of a ledger"),
    ],
)
def test_a_changed_file_is_refused_and_left_as_it_is(path: Path, sql: str, what: str) -> None:
    with open_ledger(path) as ledger:
        append(ledger, 3)
    damage(path, sql)
    before = path.read_bytes()
    with pytest.raises(LedgerCorrupt, match=what) as refused:
        open_ledger(path)
    assert "Keep the file as evidence" in str(refused.value)
    assert "restore" not in str(refused.value)  # An older copy is the one thing that must never be put in its place.
    assert path.read_bytes() == before


def test_damage_before_the_tail_is_found_by_verifying_the_whole(path: Path) -> None:
    with open_ledger(path) as ledger:
        append(ledger, TAIL + 10)
    damage(path, "UPDATE records SET link = zeroblob(32) WHERE seq = 5")
    with open_ledger(path) as ledger:
        assert ledger.verify(after=10) == TAIL
        with pytest.raises(LedgerCorrupt, match="record 5 does not follow"):
            ledger.verify()


def test_every_flipped_bit_is_detected_or_changes_nothing(path: Path, tmp_path: Path) -> None:
    """A bit of a stored record is always detected; one of the rest of the file, unless it means nothing there."""
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        records = append(ledger, 20)
        receipt = ledger.store_receipt(seal(receipt_for(ledger, 20))).result()
        totals = ledger.totals(date(2026, 1, 1), date(2027, 1, 1))
    whole = path.read_bytes()
    chance = random.Random(1)
    # SQLite leaves stale copies of a row in the free part of a page: flip the bit in all of them.
    stored = [
        [found.start() * 8 + bit for found in re.finditer(re.escape(encode(record)), whole)]
        for record in records
        for bit in chance.sample(range(len(encode(record)) * 8), 5)
    ]
    anywhere = [[chance.randrange(len(whole) * 8)] for _ in range(200)]
    for number, bits in enumerate(stored + anywhere):
        copy = tmp_path / f"copy{number}.db"
        flipped = bytearray(whole)
        for bit in bits:
            flipped[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(flipped)
        try:
            with Ledger(copy, DEVICE, 1, b"b" * 16, HeldClock(), node_key=NODE_PUBLIC) as ledger:
                ledger.verify()
                assert ledger.records(0) == records, f"bits {bits}"
                assert all(ledger.find(record.draft.request_id) == record for record in records), f"bits {bits}"
                assert ledger.receipt() == receipt, f"bits {bits}"
                assert ledger.totals(date(2026, 1, 1), date(2027, 1, 1)) == totals, f"bits {bits}"
        except LedgerError:
            continue
        assert number >= len(stored), f"bits {bits} of a record were flipped and nobody noticed"


def test_another_box_or_epoch_does_not_take_the_ledger(path: Path) -> None:
    open_ledger(path).close()
    for device, epoch in ((bytes(16), 1), (DEVICE, 2)):
        with pytest.raises(LedgerCorrupt, match="another device or epoch"):
            Ledger(path, device, epoch, b"b" * 16, HeldClock())


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all, but longer than a header of SQLite would be" * 20)
    with pytest.raises(LedgerCorrupt, match="not a database"):
        open_ledger(path)
    path.unlink()
    apsw.Connection(str(path)).execute("CREATE TABLE other (value)").close()
    with pytest.raises(LedgerCorrupt, match="its tables are not those of a ledger"):
        open_ledger(path)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="missing"):
        open_ledger(tmp_path / "missing" / "ledger.db")


def test_is_private_to_its_owner(path: Path) -> None:
    open_ledger(path).close()
    assert path.stat().st_mode & 0o077 == 0


def test_two_boxes_cannot_open_one_ledger(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.support.usage import open_ledger\n"
        "ledger = open_ledger(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(LedgerLocked, match="another box has it open"):
            open_ledger(path)
        other.kill()
    with open_ledger(path) as ledger, pytest.raises(LedgerLocked):
        open_ledger(ledger.path)


def test_closing_writes_what_waits_and_takes_no_more(path: Path) -> None:
    ledger = open_ledger(path)
    futures = [ledger.append(make_draft()) for _ in range(2000)]
    ledger.close()
    assert [future.result().seq for future in futures] == list(range(1, 2001))
    with pytest.raises(LedgerUnavailable, match="it is closed"):
        ledger.append(make_draft())
    with pytest.raises(LedgerUnavailable):
        ledger.records(0)


def test_a_receipt_is_kept_with_its_lease_and_price_book(path: Path) -> None:
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        assert ledger.receipt() is None
        append(ledger, 5)
        receipt = receipt_for(ledger, 4, price_book=DEAR_BOOK.to_json())
        assert ledger.store_receipt(seal(receipt)).result() == receipt
        assert ledger.store_receipt(seal(receipt)).result() == receipt
        assert ledger.receipt() == receipt
        assert ledger.price_book(DEAR_BOOK.digest) == DEAR_BOOK
        assert ledger.spent(receipt.lease.from_seq) == RECORD_COST
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        assert ledger.receipt() == receipt


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"device": bytes(16)}, "receipt.device"),
        ({"epoch": 2}, "receipt.device"),
        ({"link": bytes(32)}, "record 4 is not in this ledger"),
        ({"acked": 6}, "record 6 is not in this ledger"),
        ({"lease": Lease(bytes(16), 2, 4, 1, 1, 1, 1)}, "receipt.device"),
        ({"lease": Lease(bytes(16), 1, 5, 1, 1, 1, 1)}, "receipt.lease.from_seq"),
        ({"node_ms": 9}, "older than the one held"),
    ],
)
def test_a_receipt_that_does_not_fit_is_not_kept(path: Path, changes: dict[str, object], what: str) -> None:
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        append(ledger, 5)
        held = receipt_for(ledger, 4, node_ms=10)
        ledger.store_receipt(seal(held)).result()
        with pytest.raises(ValueError, match=what):
            ledger.store_receipt(seal(replace(held, **changes))).result()  # type: ignore[arg-type]
        assert ledger.receipt() == held


def test_only_the_pinned_nodes_receipt_counts(path: Path) -> None:
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        signed = seal(receipt_for(ledger, 0))
        richer = replace(signed, payload=receipt_for(ledger, 0, balance=10**12).to_bytes())
        with pytest.raises(ValueError, match="signature"):
            ledger.store_receipt(richer).result()
        ledger.store_receipt(signed).result()
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        assert ledger.receipt() == receipt_for(ledger, 0)
    for key in (None, bytes(32)):
        with pytest.raises(LedgerCorrupt, match="the node's receipt does not fit"):
            open_ledger(path, node_key=key)


def test_an_older_copy_is_found_out_by_the_receipt(path: Path, tmp_path: Path) -> None:
    """A copy of the file with the newest receipt but fewer records: the node has billed what is not there."""
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        for _ in range(5):
            ledger.append(make_draft(units={Unit.REQUESTS: 0})).result()
        ledger.store_receipt(seal(receipt_for(ledger, 5))).result()
    damage(path, "DELETE FROM records WHERE seq = 5")
    with pytest.raises(LedgerCorrupt, match="record 5 is not in this ledger"):
        open_ledger(path, node_key=NODE_PUBLIC)


def test_garbage_at_the_end_of_the_log_is_left_out(path: Path, tmp_path: Path) -> None:
    """What a crash leaves behind the last commit in the write-ahead log is not taken for a record."""
    chance = random.Random(2)
    ledger = open_ledger(path)
    append(ledger, 5)
    copy = tmp_path / "copy.db"
    for size in (1, 24, 100, 4120, 9000):
        shutil.copy(path, copy)
        log = Path(f"{path}-wal").read_bytes()
        Path(f"{copy}-wal").write_bytes(log + chance.randbytes(size))
        with open_ledger(copy) as copied:
            assert (copied.verify(), copied.head()) == (5, ledger.head())
            assert append(copied, 1)[0].seq == 6
    ledger.close()


def test_a_canary_in_a_prompt_has_no_way_in(path: Path) -> None:
    """A draft takes no text at all, so none can be found in the file."""
    canary = "मेरा-canary-7f3a"
    for field in ("key_id", "model", "lease", "price_book", "request_id"):
        with pytest.raises(ValueError, match=field):
            make_draft(**{field: canary})  # type: ignore[arg-type]
    with open_ledger(path) as ledger:
        append(ledger, 3)
        assert canary.encode() not in b"".join(file.read_bytes() for file in path.parent.iterdir())
        columns = ledger._reading.execute("SELECT type, name FROM pragma_table_info('records')").fetchall()
        assert {kind for kind, _ in columns} == {"INTEGER", "BLOB"}


def test_cost_on_the_ledger_is_the_cost_callers_are_told(path: Path) -> None:
    with open_ledger(path) as ledger:
        for quantity in (1, 499, 500, 501, 12_345):
            before = ledger.spent(0)
            draft = make_draft(secrets.token_bytes(16), units={Unit.POINTS_IN: quantity, Unit.POINTS_OUT: quantity})
            ledger.append(draft).result()
            assert ledger.spent(0) - before == cost(BOOK, Meter.CHAT, draft.units)


def test_the_nodes_time_goes_on_by_the_monotonic_clock_alone(tmp_path: Path) -> None:
    clock = HeldClock()
    with open_ledger(tmp_path / "ledger.db", clock, node_key=NODE_PUBLIC) as ledger:
        assert ledger.node_ms() == 0
        signed = seal(receipt_for(ledger, 0, node_ms=1_000))
        ledger.store_receipt(signed).result()
        clock.now_ms += 10**12
        clock.since_boot_ns += 5_000_000_000
        assert ledger.node_ms() == 6_000
        ledger.store_receipt(signed).result()  # A replayed answer does not stop the time.
        assert ledger.node_ms() == 6_000
        ledger.store_receipt(seal(receipt_for(ledger, 0, node_ms=7_000))).result()
        assert ledger.node_ms() == 7_000
    clock.since_boot_ns = 0
    with open_ledger(tmp_path / "ledger.db", clock, node_key=NODE_PUBLIC) as ledger:
        clock.since_boot_ns += 2_000_000_000
        assert ledger.node_ms() == 9_000


def test_a_book_that_rates_tokens_is_not_taken_but_one_held_from_before_stays(path: Path) -> None:
    rated = PriceBook("rated", 0, {Meter.CHAT: {Unit.TOKENS_OUT: 5}})
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        with pytest.raises(ValueError, match=r"rates\.chat\.tokens_out: tokens are never billed"):
            ledger.store_receipt(seal(receipt_for(ledger, 0, price_book=rated.to_json()))).result()
        assert ledger.receipt() is None
    connection = apsw.Connection(str(path))
    connection.execute("INSERT INTO price_books VALUES (?, ?)", (rated.digest, rated.to_json()))
    connection.close()
    with open_ledger(path, node_key=NODE_PUBLIC) as ledger:
        kept = ledger.store_receipt(seal(receipt_for(ledger, 0, price_book=rated.to_json()))).result()
        assert ledger.receipt() == kept
