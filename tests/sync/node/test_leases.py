"""All boxes of a customer together never hold more than the wallet and the allowance."""

import random

import pytest

from sync.node import devices, leases
from sync.node.context import Node
from sync.node.errors import Refusal
from sync.node.ingest import ingest
from sync.price import cost
from sync.record import Meter, Unit, decode
from sync.segment import Lease
from tests.support.held_clock import HeldClock
from tests.sync.node.world import BOOK, RUPEE, Box, join, make_box, make_customer, pay, send

ALLOWANCE = 20 * RUPEE
HOUR_MS = 3600 * 1000


@pytest.fixture
def customer(node: Node) -> str:
    return make_customer(node)


def amounts(lease: Lease) -> tuple[int, int]:
    return lease.granted, lease.allowance


def test_an_empty_wallet_leaves_the_allowance(node: Node, customer: str) -> None:
    box = make_box(node, customer)
    lease = send(node, box.heartbeat()).lease
    assert amounts(lease) == (0, ALLOWANCE)
    assert lease.expires_ms - lease.issued_ms == 72 * HOUR_MS


def test_the_allowance_is_given_once(node: Node, customer: str) -> None:
    box = make_box(node, customer)
    send(node, box.heartbeat())
    box.use_paise(1500)
    assert amounts(send(node, box.segment()).lease) == (0, 5 * RUPEE)
    box.use_paise(500)
    assert amounts(send(node, box.segment(2)).lease) == (0, 0)
    pay(node, customer, 12_000, "1" * 12)
    assert amounts(send(node, box.heartbeat()).lease) == (100 * RUPEE, ALLOWANCE)


def test_two_boxes_share(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    first, second = make_box(node, customer, 1), make_box(node, customer, 2)
    assert amounts(send(node, first.heartbeat()).lease) == (40 * RUPEE, ALLOWANCE)
    assert amounts(send(node, second.heartbeat()).lease) == (40 * RUPEE, ALLOWANCE)


def test_what_a_lost_answer_may_have_granted_stays_held(node: Node, customer: str) -> None:
    first = make_box(node, customer, 1)
    pay(node, customer, 10_000, "1" * 12)
    first.lease = send(node, first.heartbeat()).lease.lease_id  # all of it: ₹120
    second = make_box(node, customer, 2)
    newer = send(node, first.heartbeat()).lease  # ₹60, but this answer is lost
    assert amounts(send(node, second.heartbeat()).lease) == (0, 0)
    first.use_paise(1000)  # still under the old lease
    newer = send(node, first.segment()).lease
    assert newer.granted + newer.allowance == 55 * RUPEE
    assert amounts(send(node, second.heartbeat()).lease) == (0, 0)
    first.lease = newer.lease_id
    first.use_paise(1000)
    send(node, first.segment(2))
    lease = send(node, second.heartbeat()).lease
    assert lease.granted + lease.allowance == 50 * RUPEE


def test_what_an_idle_box_does_not_use_is_shared_anew(node: Node, customer: str) -> None:
    """The first box is alone and gets everything; it never serves, but it is heard: the second is not kept waiting."""
    pay(node, customer, 10_000, "1" * 12)
    idle = make_box(node, customer, 1)
    idle.lease = send(node, idle.heartbeat()).lease.lease_id
    busy = make_box(node, customer, 2)
    assert amounts(send(node, busy.heartbeat()).lease) == (0, 0)
    left = 120 * RUPEE
    for _ in range(6):
        for _ in range(2):  # The first brings the smaller lease, the second tells that it has arrived.
            idle.lease = send(node, idle.heartbeat()).lease.lease_id
        first = len(busy.records) + 1
        lease = send(node, busy.heartbeat()).lease
        assert lease.granted + lease.allowance == left // 2
        busy.lease = lease.lease_id
        busy.use_paise(left // 2 // 10_000)
        send(node, busy.segment(first))
        left -= left // 2 // 10_000 * 10_000


def test_a_lease_that_nobody_says_they_hold_stays_held(node: Node, customer: str) -> None:
    """The answer with the smaller lease was lost: the box may still spend all of the one before."""
    pay(node, customer, 10_000, "1" * 12)
    first, second = make_box(node, customer, 1), make_box(node, customer, 2)
    second_heard = send(node, second.heartbeat()).lease  # ₹60
    first.lease = send(node, first.heartbeat()).lease.lease_id  # ₹60
    second.lease = second_heard.lease_id
    pay(node, customer, 10_000, "2" * 12)
    send(node, first.heartbeat())  # ₹110 is on its way, and lost
    for _ in range(3):
        again = send(node, second.heartbeat()).lease
        second.lease = again.lease_id
        assert again.granted + again.allowance == 110 * RUPEE
    send(node, first.heartbeat())
    third = make_box(node, customer, 3)
    assert amounts(send(node, third.heartbeat()).lease) == (0, 0)


def test_a_box_set_up_again_has_credit_at_once(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    box = make_box(node, customer)
    assert amounts(send(node, box.heartbeat()).lease) == (100 * RUPEE, ALLOWANCE)
    again = join(node, customer, box.device, box.key)
    assert amounts(send(node, again.heartbeat()).lease) == (100 * RUPEE, ALLOWANCE)


def freeze(node: Node, box: Box) -> None:
    """The box is copied, and both report."""
    clone = box.copy()
    box.use_paise(1)
    clone.use_paise(2)
    send(node, box.segment())
    with pytest.raises(Refusal, match="device is frozen"):
        ingest(node, clone.segment())


def beat(node: Node, box: Box) -> int:
    """The credit of two syncs in a row, in micro-rupees: the second tells that the first's lease arrived."""
    for _ in range(2):
        lease = send(node, box.heartbeat()).lease
        box.lease = lease.lease_id
    return lease.granted + lease.allowance


def test_a_frozen_box_enrolled_anew_has_credit_at_once_also_as_a_new_device(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    box = make_box(node, customer, 1)
    assert beat(node, box) == 120 * RUPEE
    freeze(node, box)
    assert beat(node, make_box(node, customer, 2)) == 120 * RUPEE - 10_000


def test_a_box_enrolled_anew_takes_nothing_from_the_others(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    first, second = make_box(node, customer, 1), make_box(node, customer, 2)
    assert [beat(node, box) for box in (first, second)] == [60 * RUPEE, 60 * RUPEE]
    again = join(node, customer, first.device, first.key)
    assert [beat(node, box) for box in (again, second, again)] == [60 * RUPEE] * 3


def retire(node: Node, box: Box) -> None:
    with node.database.transaction() as connection:
        devices.retire(connection, box.device, node.clock.wall_ms())


def test_a_retired_box_gives_back_what_it_held(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    gone, other = make_box(node, customer, 1), make_box(node, customer, 2)
    assert [beat(node, box) for box in (gone, other)] == [60 * RUPEE, 60 * RUPEE]
    for _ in range(2):
        retire(node, gone)
        assert beat(node, other) == 120 * RUPEE


def test_a_retired_box_is_billed_and_gets_no_credit_until_it_enrols_again(node: Node, customer: str) -> None:
    pay(node, customer, 10_000, "1" * 12)
    box, other = make_box(node, customer, 1), make_box(node, customer, 2)
    assert [beat(node, one) for one in (box, other)] == [60 * RUPEE, 60 * RUPEE]
    retire(node, box)
    assert beat(node, other) == 120 * RUPEE
    other.use_paise(12_000)
    send(node, other.segment())
    box.use_paise(6000)  # under the lease it had: what the operator risked
    receipt = send(node, box.segment())
    assert receipt.balance == -80 * RUPEE
    assert (amounts(receipt.lease), receipt.lease.expires_ms) == ((0, 0), receipt.node_ms)
    pay(node, customer, 20_000, "2" * 12)
    assert beat(node, join(node, customer, box.device, box.key)) == 70 * RUPEE


def test_an_expired_lease_is_held_until_it_is_written_off(node: Node, clock: HeldClock, customer: str) -> None:
    lost, other = make_box(node, customer, 1), make_box(node, customer, 2)
    lease = send(node, lost.heartbeat()).lease
    assert lease.allowance == ALLOWANCE // 2
    clock.now_ms = lease.expires_ms + leases.WRITE_OFF_MS - 1
    held = send(node, other.heartbeat()).lease
    assert held.allowance == ALLOWANCE // 2
    clock.now_ms += 1
    assert send(node, other.heartbeat()).lease.allowance == ALLOWANCE


def test_use_beyond_a_lease_is_billed_and_grants_nothing(node: Node, customer: str) -> None:
    box = make_box(node, customer)
    send(node, box.heartbeat())
    box.use_paise(5000)
    receipt = send(node, box.segment())
    assert receipt.balance == -50 * RUPEE
    assert amounts(receipt.lease) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_that_keep_to_their_leases_never_overspend(node: Node, customer: str, seed: int) -> None:
    """Answers are lost at random, boxes join late, and each spends all it may at any time."""
    dice = random.Random(seed)
    pay(node, customer, 50_000, "1" * 12)
    boxes: list[tuple[Box, Lease | None]] = []
    for step in range(120):
        if step % 30 == 0:
            boxes.append((make_box(node, customer, seed=step), None))
        at = dice.randrange(len(boxes))
        box, lease = boxes[at]
        if lease is not None:
            spent = sum(_costs(box)[lease.from_seq :])
            room = (lease.granted + lease.allowance - spent) // 10_000
            if room > 0:
                box.use_paise(room if dice.random() < 0.2 else dice.randrange(1, room + 1))
        receipt = send(node, box.segment())
        if dice.random() < 0.7:
            box.lease = receipt.lease.lease_id
            boxes[at] = (box, receipt.lease)
        total = sum(sum(_costs(box)) for box, _ in boxes)
        assert total <= 500 * RUPEE + ALLOWANCE
        assert receipt.balance == 500 * RUPEE - total
    assert total > 300 * RUPEE, "the boxes must have come near the limit for this to mean anything"


def _costs(box: Box) -> list[int]:
    drafts = [decode(data).draft for data in box.records]
    return [cost(BOOK, draft.meter, draft.units) for draft in drafts]


def test_the_costs_of_a_box_are_what_the_tests_think() -> None:
    assert cost(BOOK, Meter.SEARCH, {Unit.REQUESTS: 10}) == 10_000
