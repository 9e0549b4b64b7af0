import asyncio
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.errors import BadAnswer, Conflict, Gap, Unreachable
from sync.identity import Enrolment, Identity
from sync.ledger import Ledger
from sync.price import PriceBook
from sync.record import Meter, Unit
from sync.segment import Head, Receipt, Segment, SignedReceipt, SignedSegment
from sync.worker import BACKOFF_S_MAX, LOW_S, SyncStatus, SyncWorker
from tests.support.held_clock import HeldClock
from tests.support.memory_node import MemoryNode
from tests.support.usage import DEVICE, append, make_draft, open_ledger

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NODE_PUBLIC = Ed25519PrivateKey.from_private_bytes(b"n" * 32).public_key().public_bytes_raw()
IDENTITY = Identity(DEVICE, KEY, Enrolment("http://127.0.0.1:1", NODE_PUBLIC.hex(), "shop", 1))


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: HeldClock) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.db", clock, node_key=NODE_PUBLIC) as ledger:
        yield ledger


@pytest.fixture
def node(clock: HeldClock) -> MemoryNode:
    return MemoryNode(IDENTITY.public_key, clock)


@pytest.fixture
def worker(ledger: Ledger, node: MemoryNode, clock: HeldClock) -> SyncWorker:
    return SyncWorker(ledger, node, IDENTITY, clock)


def is_whole(ledger: Ledger, node: MemoryNode) -> bool:
    """The node holds exactly the ledger's records, each once."""
    rows = [row for start in range(0, ledger.head().seq, 1000) for row in ledger.rows(start)]
    return node.records == [row.data for row in rows] and node.wallet == 500_000_000 - ledger.spent(0)


async def test_ships_everything_and_keeps_the_answer(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    append(ledger, 25)
    receipt = await worker.sync_now()
    assert is_whole(ledger, node)
    assert ledger.receipt() == receipt
    assert (receipt.acked, receipt.balance) == (25, node.wallet)
    assert worker.status() == SyncStatus(25, 25, node.clock.now_ms, 0, None)


async def test_an_idle_box_sends_a_heartbeat_that_renews_its_lease(
    ledger: Ledger, node: MemoryNode, worker: SyncWorker, clock: HeldClock
) -> None:
    first = await worker.sync_now()
    clock.advance(3600)
    second = await worker.sync_now()
    assert [segment.records for segment in node.segments] == [(), ()]
    assert second.lease.expires_ms == first.lease.expires_ms + 3_600_000
    assert ledger.receipt() == second


async def test_a_long_backlog_goes_in_bounded_segments(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    append(ledger, 2500)
    await worker.sync_now()
    assert is_whole(ledger, node)
    assert [len(segment.records) for segment in node.segments] == [1000, 1000, 500]


async def test_a_lost_answer_bills_nothing_twice(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    append(ledger, 5)
    node.after = lose
    with pytest.raises(Unreachable):
        await worker.sync_now()
    assert (worker.status().acked, worker.status().failures, worker.status().failure) == (0, 1, "line cut")
    append(ledger, 5)
    node.after = nothing
    await worker.sync_now()
    assert is_whole(ledger, node)
    assert (worker.status().acked, worker.status().failures, worker.status().failure) == (10, 0, None)


async def test_goes_on_from_where_the_node_is_after_a_gap(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    """The node lost what it had acknowledged (a restored backup): the box has it all and sends it again."""
    append(ledger, 10)
    await worker.sync_now()
    del node.records[4:], node.links[5:]
    node.wallet = 500_000_000 - 4 * 14_000
    append(ledger, 2)
    await worker.sync_now()
    assert is_whole(ledger, node)
    assert worker.status().acked == 12


async def test_a_node_that_never_agrees_is_given_up(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    append(ledger, 3)
    asked = 0

    def deny() -> None:
        nonlocal asked
        asked += 1
        raise Gap(Head(1, ledger.row(1).link))

    node.before = deny
    with pytest.raises(Gap):
        await worker.sync_now()
    assert asked == 3


@pytest.mark.parametrize("head", [Head(2, bytes(32)), Head(99, bytes(32))])
async def test_another_history_at_the_node_is_a_conflict(
    ledger: Ledger, node: MemoryNode, worker: SyncWorker, head: Head
) -> None:
    append(ledger, 3)

    def deny() -> None:
        raise Gap(head)

    node.before = deny
    with pytest.raises(Conflict, match="enrol the box anew"):
        await worker.sync_now()
    assert "enrol the box anew" in (worker.status().failure or "")


class ForgingNode(MemoryNode):
    """Answers with what `forge` makes of the true answer."""

    def forge(self, true: Receipt) -> SignedReceipt:
        raise NotImplementedError

    async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
        return self.forge(Receipt.from_bytes((await super().send_segment(signed)).payload))


def changing(change: dict[str, object], clock: HeldClock) -> ForgingNode:
    """A node whose receipts are properly signed and say something else in these fields."""

    class Node(ForgingNode):
        def forge(self, true: Receipt) -> SignedReceipt:
            return self.sign(replace(true, **change))  # type: ignore[arg-type]  # fields differ in type

    return Node(IDENTITY.public_key, clock)


@pytest.mark.parametrize(
    "change",
    [
        {"device": bytes(16)},
        {"epoch": 2},
    ],
)
async def test_a_receipt_that_does_not_fit_is_not_kept(
    ledger: Ledger, clock: HeldClock, change: dict[str, object]
) -> None:
    append(ledger, 5)
    with pytest.raises(BadAnswer, match="receipt"):
        await SyncWorker(ledger, changing(change, clock), IDENTITY, clock).sync_now()
    assert ledger.receipt() is None


@pytest.mark.parametrize("change", [{"link": bytes(32)}, {"acked": 99}])
async def test_a_signed_receipt_for_another_history_is_a_conflict(
    ledger: Ledger, clock: HeldClock, change: dict[str, object]
) -> None:
    append(ledger, 5)
    with pytest.raises(Conflict, match="enrol the box anew"):
        await SyncWorker(ledger, changing(change, clock), IDENTITY, clock).sync_now()
    assert ledger.receipt() is None


async def test_an_older_ledger_put_back_is_a_conflict_from_the_first_heartbeat_on(
    tmp_path: Path, node: MemoryNode, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    path, old = tmp_path / "ledger.db", tmp_path / "old.db"
    for used in (3, 2):
        with open_ledger(path, clock, node_key=NODE_PUBLIC) as ledger:
            append(ledger, used)
            clock.advance(1)
            await SyncWorker(ledger, node, IDENTITY, clock).sync_now()
        if not old.exists():
            shutil.copy(path, old)
    with open_ledger(old, clock, node_key=NODE_PUBLIC) as ledger:
        worker = SyncWorker(ledger, node, IDENTITY, clock)
        assert worker.conflict is None
        for _ in range(2):
            clock.advance(1)
            with pytest.raises(Conflict, match="record 5 of this box is not in its ledger: an older copy was restored"):
                await worker.sync_now()
        node.before = lose
        with pytest.raises(Unreachable):
            await worker.sync_now()
        status = worker.status()
        assert worker.conflict and worker.conflict == status.failure  # It stands also while the line is cut.
        assert (status.head, status.acked, status.failures) == (3, 3, 3)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert len(node.records) == 5


async def test_a_conflict_ends_with_the_next_sync_that_succeeds(
    ledger: Ledger, node: MemoryNode, worker: SyncWorker
) -> None:
    """As when the node itself was the one put back wrongly, and was put right."""

    def deny() -> None:
        raise Gap(Head(99, bytes(32)))

    node.before = deny
    with pytest.raises(Conflict):
        await worker.sync_now()
    assert worker.status().failure
    node.before = nothing
    await worker.sync_now()
    assert worker.conflict is None
    assert worker.status().failure is None


async def test_a_slow_line_gets_smaller_segments_until_they_arrive(
    ledger: Ledger, node: MemoryNode, worker: SyncWorker
) -> None:
    """The line carries 40 records in the time that the node gives a segment."""
    append(ledger, 1000)
    tried: list[int] = []

    class Slow(MemoryNode):
        async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
            tried.append(len(Segment.from_bytes(signed.payload).records))
            if tried[-1] > 40:
                lose()
            return await super().send_segment(signed)

    slow = Slow(IDENTITY.public_key, node.clock)
    worker = SyncWorker(ledger, slow, IDENTITY, node.clock)
    for _ in range(5):
        with pytest.raises(Unreachable):
            await worker.sync_now()
    await worker.sync_now()
    assert is_whole(ledger, slow)
    assert tried == [1000, 500, 250, 125, 62, *[31] * 32, 8]


async def test_a_line_that_is_back_soon_gets_whole_segments_again(
    ledger: Ledger, node: MemoryNode, worker: SyncWorker
) -> None:
    append(ledger, 50)
    node.before = lose
    for _ in range(10):
        with pytest.raises(Unreachable):
            await worker.sync_now()
    node.before = nothing
    await worker.sync_now()
    append(ledger, 3000)
    await worker.sync_now()
    assert is_whole(ledger, node)
    sizes = [len(segment.records) for segment in node.segments]
    assert sizes == [20, 20, 10, 20, 40, 80, 160, 320, 640, 1000, 740]


async def test_a_receipt_that_another_signed_is_not_kept(ledger: Ledger, clock: HeldClock) -> None:
    class Node(ForgingNode):
        def forge(self, true: Receipt) -> SignedReceipt:
            return SignedReceipt.seal(replace(true, balance=10**12).to_bytes(), KEY)

    with pytest.raises(BadAnswer, match="signature"):
        await SyncWorker(ledger, Node(IDENTITY.public_key, clock), IDENTITY, clock).sync_now()
    assert ledger.receipt() is None


async def test_a_receipt_too_short_for_what_was_sent_is_an_error(ledger: Ledger, clock: HeldClock) -> None:
    class Node(ForgingNode):
        def forge(self, true: Receipt) -> SignedReceipt:
            lease = replace(true.lease, from_seq=2)
            return self.sign(replace(true, acked=2, link=ledger.row(2).link, lease=lease))

    append(ledger, 5)
    with pytest.raises(BadAnswer, match="ends at record 2, 5 were sent"):
        await SyncWorker(ledger, Node(IDENTITY.public_key, clock), IDENTITY, clock).sync_now()


async def test_replayed_and_reordered_answers_never_bring_an_older_lease_back(ledger: Ledger, clock: HeldClock) -> None:
    class Node(ForgingNode):
        old: SignedReceipt | None = None

        def forge(self, true: Receipt) -> SignedReceipt:
            return self.old or self.answers[-1]

    node = Node(IDENTITY.public_key, clock)
    worker = SyncWorker(ledger, node, IDENTITY, clock)
    await worker.sync_now()
    clock.advance(60)
    newest = await worker.sync_now()
    node.old = node.answers[0]
    clock.advance(60)
    with pytest.raises(BadAnswer, match="older than the one held"):
        await worker.sync_now()
    assert ledger.receipt() == newest
    node.old = node.answers[1]
    assert await worker.sync_now() == newest  # The same answer twice is no harm.


async def test_old_records_stay_valid_when_the_price_book_changes(ledger: Ledger, clock: HeldClock) -> None:
    dear = PriceBook("dear", 0, {Meter.CHAT: {Unit.POINTS_IN: 1_000_000}})

    class Node(ForgingNode):
        def forge(self, true: Receipt) -> SignedReceipt:
            return self.sign(replace(true, price_book=dear.to_json()))

    node = Node(IDENTITY.public_key, clock)
    worker = SyncWorker(ledger, node, IDENTITY, clock)
    append(ledger, 2)
    await worker.sync_now()
    append(ledger, 2)  # A call that began under the old book may end after the new one came.
    ledger.append(make_draft(price_book=dear.digest)).result()
    await worker.sync_now()
    assert len(node.records) == 5
    assert ledger.verify() == 5


async def test_any_weather_ends_with_each_record_billed_once(
    ledger: Ledger, node: MemoryNode, clock: HeldClock
) -> None:
    """Segments and answers are lost by chance while calls go on and the box restarts."""
    for seed in range(20):
        chance = random.Random(seed)

        def maybe_lose(chance: random.Random = chance) -> None:
            if chance.random() < 0.3:
                lose()

        node.before = node.after = maybe_lose
        for _ in range(10):
            append(ledger, chance.randint(0, 5))
            clock.advance(chance.random())
            try:
                await SyncWorker(ledger, node, IDENTITY, clock).sync_now()
            except Unreachable:
                continue
    node.before = node.after = nothing
    await SyncWorker(ledger, node, IDENTITY, clock).sync_now()
    assert is_whole(ledger, node)
    assert len(node.records) > 300


async def test_serving_goes_on_while_a_sync_waits_for_the_node(
    ledger: Ledger, clock: HeldClock, worker: SyncWorker
) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    class Node(MemoryNode):
        async def send_segment(self, signed: SignedSegment) -> SignedReceipt:
            arrived.set()
            await go.wait()
            return await super().send_segment(signed)

    node = Node(IDENTITY.public_key, clock)
    worker = SyncWorker(ledger, node, IDENTITY, clock)
    append(ledger, 1)
    syncing = asyncio.create_task(worker.sync_now())
    await arrived.wait()
    append(ledger, 3)
    go.set()
    assert (await syncing).acked == 1  # What was made before the call; the rest goes with the next.
    assert (await worker.sync_now()).acked == 4


class Sleeps:
    """Sleep that takes no time, notes how long it was to be, and ends the worker after a number of syncs."""

    def __init__(self, clock: HeldClock) -> None:
        self.clock = clock
        self.waited_s = 0.0

    async def __call__(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.waited_s += seconds
        await asyncio.sleep(0)


class Enough(BaseException):
    """Ends the worker, which no mere error does."""


async def run_worker(
    ledger: Ledger, node: MemoryNode, clock: HeldClock, syncs: int, every_s: float = 60, uniform: float = 0
) -> list[float]:
    """Seconds waited before each of so many syncs."""
    sleeps = Sleeps(clock)
    waits: list[float] = []
    before = node.before

    def note() -> None:
        waits.append(sleeps.waited_s)
        sleeps.waited_s = 0
        if len(waits) == syncs:
            raise Enough
        before()

    node.before = note
    worker = SyncWorker(ledger, node, IDENTITY, clock, every_s=every_s, sleep=sleeps, uniform=lambda: uniform)
    with pytest.raises(Enough):
        await worker.run()
    return waits


async def test_runs_at_once_and_then_at_its_own_pace(ledger: Ledger, node: MemoryNode, clock: HeldClock) -> None:
    assert await run_worker(ledger, node, clock, 4) == [0, 60, 60, 60]


async def test_backs_off_by_doubling_up_to_a_bound_and_recovers(
    ledger: Ledger, node: MemoryNode, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([True] * 10 + [False] * 2)

    def fail() -> None:
        if next(failures):
            lose()

    node.before = fail
    waits = await run_worker(ledger, node, clock, 13)
    assert waits == [0, 2, 4, 8, 16, 32, 64, 128, 256, BACKOFF_S_MAX, BACKOFF_S_MAX, 60, 60]
    assert [record.message for record in caplog.records] == ["sync fails and will be tried again: line cut"]


async def test_a_line_that_is_cut_again_and_again_is_not_waited_for_longer_while_records_arrive(
    ledger: Ledger, node: MemoryNode, clock: HeldClock
) -> None:
    cuts = iter([True] * 6 + [False, False, True] * 4 + [False, False])

    def cut() -> None:
        if next(cuts):
            lose()

    append(ledger, 200)
    node.before = cut
    waits = await run_worker(ledger, node, clock, 21)
    assert waits == [0, 2, 4, 8, 16, 32, 64, 0, 0, *[2, 0, 0] * 3, 2, 0, 60]
    assert is_whole(ledger, node)


async def test_a_fault_of_the_program_is_logged_without_content_and_tried_again(
    ledger: Ledger, node: MemoryNode, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    faults = iter([ZeroDivisionError("a customer's words"), KeyError("a customer's words"), None, None])

    def fail() -> None:
        if fault := next(faults):
            raise fault

    append(ledger, 3)
    node.before = fail
    assert await run_worker(ledger, node, clock, 5) == [0, 2, 4, 60, 60]
    assert is_whole(ledger, node)
    said = [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records]
    assert [level for level, _, _ in said] == ["CRITICAL", "CRITICAL"]
    assert "ZeroDivisionError at test_worker.py:" in said[0][1] and "KeyError at" in said[1][1]
    assert not any("words" in message or trace for _, message, trace in said)


async def test_a_fault_shows_in_the_status(ledger: Ledger, node: MemoryNode, worker: SyncWorker) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a customer's words")

    node.before = fail
    with pytest.raises(ZeroDivisionError):
        await worker.sync_now()
    status = worker.status()
    assert status.failures == 1
    assert "ZeroDivisionError" in (status.failure or "") and "words" not in (status.failure or "")


async def test_a_ledger_that_fails_while_the_worker_waits_is_told_by_the_next_sync(
    ledger: Ledger, node: MemoryNode, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    append(ledger, 3)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if not slept:
            append(ledger, 1)  # So that what was spent since the lease stands on the disk, and not in memory.
            ledger.close()
        slept.append(seconds)
        if len(slept) == 100:
            raise Enough

    worker = SyncWorker(ledger, node, IDENTITY, clock, sleep=sleep, uniform=lambda: 0)
    with pytest.raises(Enough):
        await worker.run()
    assert worker.status().failures > 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_chance_shortens_the_wait_by_up_to_a_half(ledger: Ledger, node: MemoryNode, clock: HeldClock) -> None:
    node.before = lose
    assert await run_worker(ledger, node, clock, 4, uniform=1) == [0, 1, 2, 4]


async def test_a_low_lease_asks_for_the_next_sync_early(ledger: Ledger, node: MemoryNode, clock: HeldClock) -> None:
    node.wallet = 10 * 14_000
    uses = iter([8, 2, 0, 0])
    node.before = lambda: append(ledger, next(uses))  # Made while a sync is under way, so under the lease it brings.
    # Lease of ten, eight used: a fifth is left, not low. Of two, two used: low. Of nothing: more syncs would not help.
    assert await run_worker(ledger, node, clock, 4) == [0, 60, LOW_S, 60]


def lose() -> None:
    raise Unreachable("line cut")


def nothing() -> None:
    pass
