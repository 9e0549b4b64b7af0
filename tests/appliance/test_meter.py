"""The meter within its lease: what fits, what does not, and what a failed or cancelled call leaves behind."""

import asyncio
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from appliance.box import Box
from appliance.meter import AlreadyRecorded, CallMeter, Credit, LeaseExpired, NotEnrolled, PaymentRequired, Reservation
from sync.errors import Conflict, Gap, LedgerUnavailable
from sync.ledger import Ledger
from sync.price import cost, default_book
from sync.record import Meter, Outcome, Unit
from sync.segment import Head
from tests.support.box import Street, eventually
from tests.support.held_disk import HeldDisk

UNITS = {Unit.REQUESTS: 1, Unit.POINTS_IN: 1000, Unit.POINTS_OUT: 1000}
PRICE = cost(default_book(), Meter.CHAT, UNITS)
HOUR_S = 3600


def reserve(box: Box, request_id: UUID | None = None) -> Reservation:
    return box.meter.reserve(1, Meter.CHAT, b"m" * 32, UNITS, request_id or uuid4())


def credit(box: Box) -> Credit:
    found = box.meter.credit()
    assert found is not None
    return found


@pytest.fixture
async def poor(tmp_path: Path) -> Street:
    """A box whose wallet pays for three calls of UNITS and a half."""
    made = Street(tmp_path, wallet=3 * PRICE + PRICE // 2)
    await made.enrol()
    return made


async def test_a_commit_is_charged_at_the_price_book_and_frees_its_room(box: Box) -> None:
    with reserve(box) as reservation:
        assert credit(box).reserved == PRICE
        charge = await reservation.commit({**UNITS, Unit.TOKENS_IN: 7}, Outcome.COMPLETED)
    await asyncio.sleep(0)
    assert charge.cost == PRICE == box.ledger.head().total
    assert (credit(box).reserved, credit(box).spent) == (0, PRICE)
    (record,) = box.ledger.records(0)
    receipt = box.ledger.receipt()
    assert receipt is not None
    assert charge.record == record.name
    assert record.draft.lease == receipt.lease.lease_id
    assert record.draft.price_book == default_book().digest


async def test_a_call_that_fails_is_free_and_gives_its_room_back(box: Box) -> None:
    with pytest.raises(ZeroDivisionError), reserve(box):
        raise ZeroDivisionError
    assert credit(box).reserved == 0
    assert box.ledger.head().seq == 0


async def test_calls_in_flight_together_stay_within_the_lease(poor: Street) -> None:
    async with poor.box() as box:
        held = [reserve(box) for _ in range(3)]
        with pytest.raises(PaymentRequired) as refused:
            reserve(box)
        assert refused.value.topup.startswith("upi://pay?")
        assert "₹0.025 is left" in str(refused.value)
        with held.pop():
            pass
        with reserve(box):
            pass


async def test_what_was_spent_stays_spent_until_the_node_gives_a_new_lease(poor: Street) -> None:
    async with poor.box() as box:
        for _ in range(3):
            with reserve(box) as reservation:
                await reservation.commit(UNITS, Outcome.COMPLETED)
        with pytest.raises(PaymentRequired):
            reserve(box)
        poor.node.wallet += 10 * PRICE  # The top-up arrives at the node; the box hears of it at the next sync.
        with pytest.raises(PaymentRequired):
            reserve(box)
        assert box.worker is not None
        await box.worker.sync_now()
        with reserve(box):
            pass


async def test_a_reservation_grows_until_the_lease_has_no_more_room(poor: Street) -> None:
    async with poor.box() as box:
        with reserve(box) as reservation:
            reservation.cover({**UNITS, Unit.POINTS_OUT: 3000})
            with pytest.raises(PaymentRequired):
                reservation.cover({**UNITS, Unit.POINTS_OUT: 5000})
            reservation.cover(UNITS)
        assert credit(box).reserved == 0


async def test_an_expired_lease_asks_for_the_line(street: Street, box: Box) -> None:
    street.clock.advance(73 * HOUR_S)
    with pytest.raises(LeaseExpired, match="nukkad sync"):
        reserve(box)
    assert box.worker is not None
    await box.worker.sync_now()
    with reserve(box):
        pass


async def test_a_clock_put_back_does_not_lengthen_a_lease(street: Street, box: Box) -> None:
    street.clock.advance(71 * HOUR_S)
    with reserve(box):
        pass
    street.clock.now_ms -= 71 * HOUR_S * 1000
    street.clock.since_boot_ns += 2 * HOUR_S * 1_000_000_000
    with pytest.raises(LeaseExpired):
        reserve(box)


async def test_a_clock_that_was_ahead_once_locks_nobody_out(street: Street, box: Box) -> None:
    """As when a time server errs by years: while it lasts nothing is served, and afterwards all is as it was."""
    street.clock.now_ms += 3 * 365 * 24 * HOUR_S * 1000
    with pytest.raises(LeaseExpired, match="set its clock right"):
        reserve(box)
    street.clock.now_ms -= 3 * 365 * 24 * HOUR_S * 1000
    street.clock.advance(60)
    with reserve(box):
        pass


async def test_time_passes_from_the_nodes_word_also_while_nobody_calls(street: Street, box: Box) -> None:
    """The wall clock stands still (a dead battery): the first call after 73 hours finds the lease ended."""
    street.clock.since_boot_ns += 73 * HOUR_S * 1_000_000_000
    with pytest.raises(LeaseExpired) as refused:
        reserve(box)
    assert "clock" not in str(refused.value)


async def test_after_a_restart_the_clock_on_the_wall_counts(street: Street, box: Box) -> None:
    """`street` gives the box's folder: the same ledger, opened anew after 73 hours without power."""
    ended = box.meter.credit()
    assert ended is not None
    street.clock.now_ms = ended.expires_ms
    street.clock.since_boot_ns = 0
    box.ledger.close()
    identity = box.identity
    assert identity.enrolment is not None
    with Ledger(
        box.ledger.path, identity.device, 1, bytes(16), street.clock, node_key=identity.enrolment.node_public_key
    ) as again:
        found = CallMeter(again, street.clock).credit()
        assert found is not None and found.expired
        street.clock.now_ms = 0  # Put back: the node's last word is from before the lease ended.
        found = CallMeter(again, street.clock).credit()
        assert found is not None and not found.expired
        street.clock.since_boot_ns = 72 * HOUR_S * 1_000_000_000
        found = CallMeter(again, street.clock).credit()
        assert found is not None and found.expired


async def test_a_box_without_a_node_serves_nothing_billable(tmp_path: Path) -> None:
    async with Street(tmp_path).box() as box:
        assert box.meter.credit() is None
        with pytest.raises(NotEnrolled, match="nukkad enrol"):
            reserve(box)


async def test_nothing_is_served_while_the_ledger_cannot_be_written(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stream would be free: its text goes out before its record is made."""
    monkeypatch.setattr("sync.group_commit.PROBE_S", 0.01)
    disk = HeldDisk("meter-full")
    monkeypatch.setattr("appliance.serve.Ledger", partial(Ledger, vfs=disk.name))
    async with street.box() as box:
        disk.full = True
        with pytest.raises(LedgerUnavailable), reserve(box) as reservation:
            await reservation.commit(UNITS, Outcome.COMPLETED)
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="free some disk space"):
                reserve(box)
        assert box.meter._reserved == 0
        disk.full = False
        await eventually(lambda: is_open(box))
        with reserve(box) as reservation:
            await reservation.commit(UNITS, Outcome.COMPLETED)
        assert box.ledger.head().seq == 1


def is_open(box: Box) -> bool:
    try:
        with reserve(box):
            return True
    except LedgerUnavailable:
        return False


async def test_a_box_of_which_the_node_holds_another_history_serves_nothing_billable(street: Street, box: Box) -> None:
    def deny() -> None:
        raise Gap(Head(99, bytes(32)))

    assert box.worker is not None
    street.node.before = deny
    with pytest.raises(Conflict):
        await box.worker.sync_now()
    with pytest.raises(NotEnrolled, match=r"may not bill: the node's record 99 .* enrol the box anew"):
        reserve(box)
    street.node.before = lambda: None
    await box.worker.sync_now()
    with reserve(box):
        pass


async def test_a_request_that_was_recorded_is_not_reserved_again(box: Box) -> None:
    request_id = uuid4()
    with reserve(box, request_id=request_id) as reservation:
        await reservation.commit(UNITS, Outcome.CANCELLED)
    with pytest.raises(AlreadyRecorded):
        reserve(box, request_id=request_id)


async def test_a_wait_that_is_cancelled_leaves_the_record_and_frees_the_room(box: Box) -> None:
    with reserve(box) as reservation:
        waiting = asyncio.create_task(reservation.commit(UNITS, Outcome.COMPLETED))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await eventually(lambda: credit(box).reserved == 0)
    assert credit(box).spent == PRICE


async def test_a_ledger_that_cannot_write_gives_the_room_back(box: Box) -> None:
    reservation = reserve(box)
    box.ledger.close()
    with pytest.raises(LedgerUnavailable), reservation:
        await reservation.commit(UNITS, Outcome.COMPLETED)
    assert box.meter._reserved == 0
