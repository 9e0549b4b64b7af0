"""What was acknowledged is there: after kill -9 at any moment, a power cut at any write, and with a full disk."""

import multiprocessing
import random
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from sync.errors import LedgerUnavailable
from sync.ledger import Ledger
from sync.record import Record
from tests.support.doomed_writer import write_until_killed
from tests.support.held_disk import HeldDisk
from tests.support.house import wait_until
from tests.support.usage import BOOK, append, close, make_draft, open_ledger

KILLS = 36
POWER_CUTS = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_kill_9_at_random_moments_loses_no_acknowledged_record(path: Path) -> None:
    chance = random.Random(3)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.doomed_writer"])
    acknowledged: set[bytes] = set()
    for seed in range(KILLS):
        hearing, telling = context.Pipe(duplex=False)
        writer = context.Process(target=write_until_killed, args=(path, telling, seed))
        writer.start()
        telling.close()
        told = {hearing.recv_bytes()}  # It is at work; now any moment will do.
        time.sleep(chance.uniform(0, 0.03))
        writer.kill()
        writer.join()
        try:
            while True:
                told.add(hearing.recv_bytes())
        except (EOFError, OSError):  # The end, or half a message.
            hearing.close()
        with open_ledger(path) as ledger:
            assert all(ledger.find(request_id) for request_id in told)
            acknowledged |= told
            last = ledger.head().seq
    with open_ledger(path) as ledger:
        assert ledger.verify() == last
        assert all(ledger.find(request_id) for request_id in acknowledged)
    assert len(acknowledged) > 2 * KILLS


def lose_power(path: Path, disk: HeldDisk, seed: int, pragma: str = "synchronous = FULL") -> tuple[int, int]:
    """Appends until the disk dies, then starts again: acknowledged records that are lost, and that are there."""
    chance = random.Random(seed)
    futures: list[Future[Record]] = []
    if seed % 5 == 0:
        disk.works_left = chance.randint(0, 60)  # It dies while the file is made, or soon after.
    try:
        ledger = open_ledger(path, vfs=disk.name)
        ledger._write.execute(f"PRAGMA {pragma}; PRAGMA wal_autocheckpoint = 30")
        if disk.works_left is None:
            disk.works_left = chance.randint(0, 300)
        while True:
            futures += [ledger.append(make_draft(chance.randbytes(16))) for _ in range(chance.randint(1, 5))]
            futures[-1].result()
    except LedgerUnavailable:
        if futures:
            close(ledger)
    told = [future.result() for future in futures if not future.exception()]
    disk.power_up(chance)
    with open_ledger(path, vfs=disk.name) as ledger:
        assert ledger.verify() == ledger.head().seq
        there = sum(ledger.find(record.draft.request_id) == record for record in told)
        append(ledger, 1)
    return len(told) - there, there


def test_a_power_cut_at_any_write_loses_no_acknowledged_record(tmp_path: Path) -> None:
    disk = HeldDisk("power-full")
    results = [lose_power(tmp_path / f"{seed}.db", disk, seed) for seed in range(POWER_CUTS)]
    assert sum(lost for lost, _ in results) == 0
    assert sum(there for _, there in results) > POWER_CUTS


def test_the_power_cut_harness_sees_the_loss_that_a_laxer_setting_allows(tmp_path: Path) -> None:
    disk = HeldDisk("power-normal")
    laxer = (lose_power(tmp_path / f"{seed}.db", disk, seed, "synchronous = NORMAL") for seed in range(30))
    assert any(lost for lost, _ in laxer)


def test_a_full_disk_stops_appends_aloud_and_goes_on_when_there_is_room(path: Path) -> None:
    disk = HeldDisk("full")
    with open_ledger(path, vfs=disk.name) as ledger:
        records = append(ledger, 3)
        disk.full = True
        for _ in range(3):
            refused = [ledger.append(make_draft()) for _ in range(4)]
            for future in refused:
                with pytest.raises(LedgerUnavailable, match=r"not recorded .*free some disk space"):
                    future.result()
        assert ledger.records(0) == records
        assert ledger.spent(0) == 3 * 14_000
        disk.full = False
        records += append(ledger, 2)
        assert [record.seq for record in records] == [1, 2, 3, 4, 5]
        assert ledger.verify() == 5
    with open_ledger(path) as ledger:
        assert ledger.records(0) == records


def test_a_full_disk_is_told_before_anything_is_served_until_a_write_succeeds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nobody appends any more, because everybody asks first."""
    monkeypatch.setattr("sync.group_commit.PROBE_S", 0.01)
    disk = HeldDisk("full-told")
    with open_ledger(path, vfs=disk.name) as ledger:
        append(ledger, 1)
        ledger.check_writable()
        disk.full = True
        with pytest.raises(LedgerUnavailable):
            ledger.append(make_draft()).result()
        for _ in range(5):
            time.sleep(0.02)
            with pytest.raises(LedgerUnavailable, match="free some disk space"):
                ledger.check_writable()
        with pytest.raises(LedgerUnavailable):  # A job that writes nothing does not show that there is room.
            ledger.store_price_book(BOOK).result()
        assert not ledger.failed.done()
        disk.full = False
        wait_until(lambda: is_writable(ledger), "the ledger takes records again")
        assert append(ledger, 1)[0].seq == 2
        assert ledger.verify() == 2
    with open_ledger(path) as ledger:
        assert ledger.verify() == 2


def is_writable(ledger: Ledger) -> bool:
    try:
        ledger.check_writable()
    except LedgerUnavailable:
        return False
    return True


def test_a_disk_that_fails_to_sync_stops_the_ledger_until_a_restart(path: Path) -> None:
    disk = HeldDisk("dead")
    ledger = open_ledger(path, vfs=disk.name)
    records = append(ledger, 3)
    disk.works_left = 0
    with pytest.raises(LedgerUnavailable, match=r"writing failed .*restart the box"):
        ledger.append(make_draft()).result()
    disk.works_left = None
    ledger.failed.result()
    with pytest.raises(LedgerUnavailable, match="restart the box"):
        ledger.check_writable()
    with pytest.raises(LedgerUnavailable, match="restart the box"):  # The disk is back, but what it holds is unknown.
        ledger.append(make_draft()).result()
    assert ledger.records(0) == records
    ledger.close()
    with open_ledger(path, vfs=disk.name) as ledger:
        assert ledger.records(0)[:3] == records
        assert append(ledger, 1)[0].seq == ledger.head().seq
