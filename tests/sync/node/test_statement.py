"""A statement against an oracle that adds up the boxes' own records."""

import random
import threading
import time
from collections import Counter
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest

from sync.clock import DAY_MS, INDIA, day_in_india, day_of_number, day_start_ms
from sync.node.adjustments import adjust
from sync.node.context import Node
from sync.node.devices import DeviceState, list_states
from sync.node.statement import Statement, make_statement
from sync.record import Meter, Unit, decode
from tests.support.held_clock import HeldClock
from tests.sync.node.world import BOOK, RUPEE, START_MS, balances, count, make_box, make_customer, pay, send


def statement(node: Node, first: date | None, last: date | None, customer: str = "sharma") -> Statement:
    return make_statement(node.database, customer, first, last, node.clock.wall_ms())


def today(node: Node) -> date:
    return day_in_india(node.clock.wall_ms())


@pytest.mark.parametrize("seed", range(3))
def test_a_statement_is_what_the_boxes_counted(node: Node, clock: HeldClock, seed: int) -> None:
    dice = random.Random(seed)
    make_customer(node)
    make_box(node, make_customer(node, "other"), seed=99)
    boxes = [make_box(node, "sharma", seed=n) for n in range(2)]
    expected: Counter[tuple[date, str, str]] = Counter()
    exact = Fraction(0)
    for day in range(4):
        clock.now_ms = START_MS + (day + 1) * DAY_MS
        for box in boxes:
            sent = len(box.records)
            for second in range(dice.randrange(20)):
                units = {unit: dice.randrange(1, 5000) for unit in Unit if dice.random() < 0.5}
                made = box.use(units, dice.choice(list(Meter)), START_MS + day * DAY_MS + second * 3_600_000)
                used = datetime.fromtimestamp(made.wall_ms // 1000, INDIA).date()
                for unit, quantity in units.items():
                    expected[used, made.draft.meter.name, unit.name] += quantity
                    rate = BOOK.rates.get(made.draft.meter, {}).get(unit, 0)
                    exact += Fraction(quantity * rate * 2 + 1000, 2000).__floor__()
            send(node, box.segment(sent + 1))
    made_out = statement(node, day_in_india(START_MS), today(node))
    found = {(day_of_number(line.day), Meter(line.meter).name, Unit(line.unit).name): line for line in made_out.lines}
    assert {key: line.quantity for key, line in found.items()} == dict(expected)
    assert made_out.usage == exact
    assert made_out.usage_paise == (exact / 10_000 + Fraction(1, 2)).__floor__()
    assert made_out.calls == sum(len(box.records) for box in boxes)
    assert made_out.opening == 0 and made_out.closing == -exact
    for box in boxes:
        assert all(decode(data).device == box.device for data in box.records)


def test_periods_join_without_gap_or_overlap(node: Node, clock: HeldClock) -> None:
    box = make_box(node, make_customer(node))
    start = today(node)
    for day in range(6):
        clock.now_ms = START_MS + day * DAY_MS
        box.use_paise(100 + day, node.clock.wall_ms())
        send(node, box.segment(day + 1))
        pay(node, "sharma", 1000 + day, f"{day:012}")
    parts = [statement(node, start + timedelta(day), start + timedelta(day)) for day in range(6)]
    whole = statement(node, start, start + timedelta(5))
    for part, later in pairwise(parts):
        assert part.closing == later.opening
    for part in [*parts, whole]:
        assert part.closing == part.opening + part.paid_paise * 10_000 - part.usage
    assert sum(part.usage for part in parts) == whole.usage == 615 * 10_000
    assert sum(part.paid_paise for part in parts) == whole.paid_paise == 6015


def test_a_day_begins_at_midnight_in_india(node: Node, clock: HeldClock) -> None:
    assert day_in_india(START_MS) == datetime.fromtimestamp(START_MS // 1000, INDIA).date()
    midnight = int(datetime(2026, 9, 23, tzinfo=INDIA).timestamp()) * 1000
    assert (day_in_india(midnight - 1), day_in_india(midnight)) == (date(2026, 9, 22), date(2026, 9, 23))
    box = make_box(node, make_customer(node))
    clock.now_ms = midnight - 1
    box.use_paise(1, midnight - 1)
    send(node, box.segment())
    clock.now_ms = midnight
    box.use_paise(2, midnight)
    send(node, box.segment(2))
    assert statement(node, date(2026, 9, 22), date(2026, 9, 22)).usage == 10_000
    assert statement(node, date(2026, 9, 23), date(2026, 9, 23)).usage == 20_000


def test_use_reported_late_is_on_the_later_statement_under_its_own_day(node: Node, clock: HeldClock) -> None:
    box = make_box(node, make_customer(node))
    used = today(node)
    box.use_paise(100, START_MS + 1000)
    clock.now_ms = START_MS + DAY_MS
    closed = statement(node, used, used)
    clock.now_ms = START_MS + 40 * DAY_MS
    send(node, box.segment())
    assert closed.final and statement(node, used, used) == closed
    later = statement(node, used + timedelta(1), today(node))
    assert [(day_of_number(line.day), line.amount) for line in later.lines] == [(used, RUPEE)]


def test_free_units_are_shown(node: Node) -> None:
    box = make_box(node, make_customer(node))
    box.use({Unit.TOKENS_OUT: 12, Unit.POINTS_OUT: 3})
    send(node, box.segment())
    lines = statement(node, today(node), today(node)).lines
    assert [(Unit(line.unit), line.quantity, line.rate, line.amount) for line in lines] == [
        (Unit.POINTS_OUT, 3, 40_000, 120),
        (Unit.TOKENS_OUT, 12, 0, 0),
    ]


def test_a_day_that_is_not_over_is_not_final(node: Node, clock: HeldClock) -> None:
    make_customer(node)
    day = today(node)
    assert not statement(node, day, day).final
    assert not statement(node, day, day + timedelta(7)).final
    assert statement(node, day - timedelta(3), day - timedelta(1)).final
    clock.now_ms = day_start_ms(day + timedelta(1))
    assert statement(node, day, day).final


def test_an_adjustment_is_on_the_statement_and_in_the_balance(node: Node, clock: HeldClock) -> None:
    box = make_box(node, make_customer(node))
    box.use_paise(300)
    send(node, box.segment())
    with node.database.transaction() as connection:
        adjust(connection, "sharma", "ticket-1", 250, reason="it answered nonsense", now_ms=clock.now_ms)
        adjust(connection, "sharma", "ticket-2", -50, reason="that was too much", now_ms=clock.now_ms + 1)
    made_out = statement(node, today(node), today(node))
    assert [(one.id, one.amount) for one in made_out.adjustments] == [
        ("ticket-1", 250 * 10_000),
        ("ticket-2", -500_000),
    ]
    assert made_out.closing == made_out.opening + made_out.adjusted - made_out.usage == -RUPEE
    assert balances(node)[0] == balances(node)[1] and balances(node)[2] == 0


MIDNIGHT = day_start_ms(day_in_india(START_MS) + timedelta(1))


def adjusted(node: Node, id: str, now_ms: int) -> None:
    with node.database.transaction() as connection:
        adjust(connection, "sharma", id, 100, reason="a test", now_ms=now_ms)


def test_a_final_statement_waits_for_who_is_posting(node: Node, clock: HeldClock) -> None:
    """An entry is stamped before midnight, and commits after a statement of its day was asked for."""
    make_customer(node)
    day, made = today(node), []
    clock.now_ms = MIDNIGHT
    ask = threading.Thread(target=lambda: made.append(statement(node, day, day)))
    with node.database.transaction() as connection:
        adjust(connection, "sharma", "late", 100, reason="a test", now_ms=MIDNIGHT - 1)
        ask.start()
        while ask.is_alive() and not count(node, "select count(*) from pg_locks where not granted"):
            time.sleep(0.01)
        assert not made
    ask.join()
    assert made[0].final and [one.id for one in made[0].adjustments] == ["late"]
    assert statement(node, day, day) == made[0]


@pytest.mark.parametrize("back_ms", [1, DAY_MS // 4])
def test_nothing_is_posted_into_a_final_statement_whatever_the_clock_says(
    node: Node, clock: HeldClock, back_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that was stamped just before midnight, or a clock that was put back."""
    box = make_box(node, make_customer(node))
    day = today(node)
    clock.now_ms = MIDNIGHT
    send(node, box.heartbeat())
    final = statement(node, day, day)
    clock.now_ms = MIDNIGHT - back_ms
    box.use_paise(100, MIDNIGHT - back_ms)
    send(node, box.segment())
    pay(node, "sharma", 700, "1" * 12)
    adjusted(node, "ticket", clock.now_ms)
    assert final.final and statement(node, day, day) == final
    next_day = statement(node, day + timedelta(1), day + timedelta(1))
    assert (next_day.usage_paise, next_day.paid_paise, next_day.adjusted) == (100, 700, RUPEE)
    assert ("the node's clock" in caplog.text) == (back_ms > 1)


def test_a_clock_that_was_ahead_hides_no_later_use(
    node: Node, clock: HeldClock, caplog: pytest.LogCaptureFixture
) -> None:
    box = make_box(node, make_customer(node))
    day, ahead_ms = today(node), 365 * DAY_MS
    clock.now_ms += ahead_ms
    box.use_paise(7, clock.now_ms)
    told = send(node, box.segment())
    clock.now_ms -= ahead_ms - 1000
    for _ in range(2):
        box.use_paise(100, clock.now_ms)
        receipt = send(node, box.segment())
        # The box would take no receipt that is older than the one it holds.
        assert (receipt.node_ms, receipt.lease.expires_ms) == (told.node_ms, told.lease.expires_ms)
    shown = statement(node, day, day)
    assert (shown.usage_paise, [day_of_number(line.day) for line in shown.lines]) == (200, [day])
    everything = statement(node, None, None)
    assert (everything.usage_paise, everything.closing) == (207, receipt.balance)
    assert [record.levelname for record in caplog.records] == ["ERROR"], "said once, not at each sync"
    assert "the node's clock is 31535999 s behind" in caplog.text
    (listed,) = states(node)
    assert listed.seen_ms == clock.now_ms


def test_a_customer_added_while_the_clock_was_ahead_sees_all_from_the_first_posting_on(
    node: Node, clock: HeldClock
) -> None:
    day, ahead_ms = today(node), 365 * DAY_MS
    clock.now_ms += ahead_ms
    box = make_box(node, make_customer(node))
    clock.now_ms -= ahead_ms
    box.use_paise(7, clock.now_ms)
    send(node, box.segment())
    clock.now_ms += 3 * DAY_MS
    everything = statement(node, None, None)
    assert (everything.first, everything.usage_paise, everything.opening) == (day, 7, 0)


def states(node: Node) -> list[DeviceState]:
    with node.database.snapshot() as connection:
        return list_states(connection, "sharma", 9)
