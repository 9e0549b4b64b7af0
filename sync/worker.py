"""The sync worker: ships records to the node at its own pace and keeps what the node answers. Nobody waits for it."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sync.clock import Clock
from sync.errors import BadAnswer, Conflict, Gap, LedgerError, NodeError, OtherHistory, Unreachable
from sync.fault import place
from sync.identity import Identity
from sync.ledger import Ledger
from sync.segment import NO_LEASE, SEGMENT_RECORDS_MAX, Head, Receipt, Segment, SignedSegment
from sync.transport import NodeClient

BACKOFF_S_MAX = 300
TICK_S = 1  # how often the lease is looked at between syncs
LOW_S = 5  # a low lease asks for the next sync no sooner than this
RECORDS_MIN = 20  # in a segment on the slowest of lines: 5 kB
GAPS_MAX = 2  # gap answers in one sync; more means that the node does not keep what it says

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncStatus:
    head: int  # seq of the last record
    acked: int  # seq of the last record that the node has billed
    synced_ms: int | None  # when the last sync since the start succeeded
    failures: int  # in a row, since the node last took records or answered a sync
    failure: str | None  # the conflict with the node that stands, or else what the last sync failed with


class SyncWorker:
    """One per box. `run` syncs for ever; `sync_now` may be called beside it. Safe to kill at any moment."""

    def __init__(
        self,
        ledger: Ledger,
        node: NodeClient,
        identity: Identity,
        clock: Clock,
        *,
        every_s: float = 60,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """`uniform` gives a number from 0 to 1, so that boxes that lost a node together do not return together."""
        self._ledger, self._node, self._identity, self._clock = ledger, node, identity, clock
        self._every_s, self._sleep, self._uniform = every_s, sleep, uniform
        self._turn = asyncio.Lock()
        self._synced_ms: int | None = None
        self._failures = 0
        self._failure: str | None = None
        self._conflict: str | None = None
        self._records_most = SEGMENT_RECORDS_MAX

    @property
    def conflict(self) -> str | None:
        """Why nothing that this box records can be billed: the node holds another history. Until a sync succeeds."""
        return self._conflict

    def status(self) -> SyncStatus:
        receipt = self._ledger.receipt()
        acked, failure = receipt.acked if receipt else 0, self._conflict or self._failure
        return SyncStatus(self._ledger.head().seq, acked, self._synced_ms, self._failures, failure)

    async def run(self) -> None:
        """Until cancelled: at once, then every `every_s`, sooner when the lease runs low, later while syncs fail.

        Nothing else ends it: a box that stopped syncing unseen would serve until its lease ends and never be billed.
        """
        wait_s = 0.0
        while True:
            try:
                await self._pause(wait_s)
                await self.sync_now()
            except (NodeError, LedgerError) as error:
                if self._failures == 1:
                    log.warning("sync fails and will be tried again: %s", error)
            except Exception as error:  # noqa: BLE001 - whatever it is, the next sync is tried
                log.critical("sync failed by a fault of this program and will be tried again: %s", place(error))
            wait_s = self._backoff_s() if self._failures else self._every_s

    async def sync_now(self) -> Receipt:
        """Ships every record made before the call. Raises NodeError or LedgerError, which `status` keeps too."""
        async with self._turn:
            try:
                receipt = await self._ship()
            except (NodeError, LedgerError) as error:
                self._failures, self._failure = self._failures + 1, str(error)
                if isinstance(error, Conflict):
                    if self._conflict is None:
                        log.error("nothing more is served: %s", error)
                    self._conflict = str(error)
                raise
            except Exception as error:
                self._failures, self._failure = self._failures + 1, f"a fault of this program: {place(error)}"
                raise
            self._failures, self._failure, self._conflict = 0, None, None
            self._synced_ms = self._clock.wall_ms()
            return receipt

    async def _ship(self) -> Receipt:
        held = self._ledger.receipt()
        acked, goal, gaps = held.acked if held else 0, self._ledger.head().seq, 0
        # What arrives right after a failure is the size that the line carries: a larger one would fail again.
        grows = not self._failures
        while True:
            segment = self._cut(acked)
            try:
                answer = await self._node.send_segment(SignedSegment.seal(segment.to_bytes(), self._identity.key))
            except Gap as gap:
                gaps += 1
                if gaps > GAPS_MAX:
                    raise
                acked = self._resume(gap.head)
                continue
            except Unreachable:
                # A line may be too slow for a whole segment in the time that the node gives it.
                self._records_most = max(RECORDS_MIN, self._records_most // 2)
                raise
            if grows:
                self._records_most = min(SEGMENT_RECORDS_MAX, self._records_most * 2)
            try:
                receipt = await asyncio.wrap_future(self._ledger.store_receipt(answer))
            except OtherHistory as error:
                raise _conflict(error.acked) from error
            except ValueError as error:
                raise BadAnswer(f"the node's receipt is not kept: {error}") from error
            if receipt.acked < segment.last:
                raise BadAnswer(f"the node's receipt ends at record {receipt.acked}, {segment.last} were sent")
            if receipt.acked > acked:
                self._failures = 0  # The line carries something: a sync cut after this need not wait long.
            acked = receipt.acked
            if acked >= goal:
                return receipt

    def _cut(self, acked: int) -> Segment:
        """The next records after `acked`; none makes a heartbeat."""
        before = self._ledger.row(acked).link
        rows = self._ledger.rows(acked, self._records_most)
        after = rows[-1].link if rows else before
        records = tuple(row.data for row in rows)
        held = self._ledger.receipt()
        lease = held.lease.lease_id if held else NO_LEASE
        return Segment(self._identity.device, self._identity.epoch, acked + 1, before, after, records, lease)

    def _resume(self, head: Head) -> int:
        """Where to go on after a gap: the node's head, if it is a place in this ledger."""
        if head.acked > self._ledger.head().seq or self._ledger.row(head.acked).link != head.link:
            raise _conflict(head.acked)
        return head.acked

    async def _pause(self, wait_s: float) -> None:
        waited_s = 0.0
        while waited_s < wait_s:
            await self._sleep(min(TICK_S, wait_s - waited_s))
            waited_s += TICK_S
            if waited_s >= LOW_S and not self._failures and self._is_lease_low():
                return

    def _is_lease_low(self) -> bool:
        """Less than a fifth is left. True also when the ledger cannot say: the sync that follows tells why."""
        receipt = self._ledger.receipt()
        if receipt is None:
            return False
        room = receipt.lease.granted + receipt.lease.allowance
        try:
            return 5 * (room - self._ledger.spent(receipt.lease.from_seq)) < room
        except LedgerError:
            return True

    def _backoff_s(self) -> float:
        """2, 4, 8 … BACKOFF_S_MAX seconds, less up to a half by chance."""
        return min(BACKOFF_S_MAX, 2.0 ** min(self._failures, 16)) * (1 - self._uniform() / 2)


def _conflict(acked: int) -> Conflict:
    return Conflict(
        f"the node's record {acked} of this box is not in its ledger: an older copy was restored, or the box was "
        "copied. Move the whole state folder aside and enrol the box anew"
    )
