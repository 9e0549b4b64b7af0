"""Segments come twice, late, out of order, forged and forked; each record is billed once."""

import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.node import accounts, books, devices, evidence
from sync.node.context import Node
from sync.node.errors import Refusal
from sync.node.ingest import Gap, ingest
from sync.price import PriceBook, cost
from sync.record import FIRST_LINK, Meter, Unit, decode
from sync.segment import Receipt, Segment, verify_chain
from tests.support.held_clock import HeldClock
from tests.sync.node.world import BOOK, RUPEE, START_MS, Box, balances, count, join, make_box, make_customer, pay, send

CHEAP = PriceBook("cheap", START_MS, {Meter.CHAT: {Unit.POINTS_IN: 1}})


@pytest.fixture
def box(node: Node) -> Box:
    return make_box(node, make_customer(node))


def wallet(node: Node, customer: str = "sharma") -> int:
    with node.database.snapshot() as connection:
        return accounts.balance(connection, customer)


def refusal(node: Node, box: Box, segment: Segment) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ingest(node, box.sign(segment))
    return caught.value


def test_a_segment_is_billed_and_answered(node: Node, box: Box) -> None:
    box.use({Unit.POINTS_IN: 100, Unit.POINTS_OUT: 50, Unit.TOKENS_OUT: 20})
    box.use({Unit.POINTS_IN: 7}, Meter.EMBEDDING)
    receipt = send(node, box.segment())
    # ₹0.010 and ₹0.040 per 1,000 code points of chat in and out, ₹0.004 of embedding.
    assert receipt.balance == -(100 * 10 + 50 * 40 + 7 * 4)
    assert (receipt.acked, receipt.link) == (2, box.links[2])
    assert receipt.price_book == BOOK.to_json()
    assert receipt.topup.status == "open" and receipt.topup.amount_paise == 0
    assert balances(node) == (3028, 3028, 0)
    with node.database.snapshot() as connection:
        posted = dict(connection.execute("select account, amount from postings").fetchall())
    assert posted == {"wallet:sharma": 3028, "revenue:chat": -3000, "revenue:embedding": -28}


def test_the_same_segment_again_bills_nothing(node: Node, box: Box) -> None:
    box.use_paise(100)
    first = send(node, box.segment())
    for _ in range(3):
        again = send(node, box.segment())
        assert replace(again, lease=first.lease) == first
        assert replace(again.lease, lease_id=first.lease.lease_id) == first.lease
    assert wallet(node) == -RUPEE
    assert count(node, "select count(*) from records") == 1
    assert count(node, "select count(*) from entries") == 1


def test_an_overlap_bills_only_what_is_new(node: Node, box: Box) -> None:
    for _ in range(5):
        box.use_paise(10)
    send(node, box.segment(1, 3))
    receipt = send(node, box.segment(2, 5))
    assert (receipt.acked, receipt.balance) == (5, -50 * 10_000)
    assert send(node, box.segment(1, 2)).acked == 5
    assert wallet(node) == -50 * 10_000


def test_a_gap_names_the_head(node: Node, box: Box) -> None:
    for _ in range(4):
        box.use_paise(10)
    send(node, box.segment(1, 2))
    with pytest.raises(Gap) as caught:
        ingest(node, box.segment(4))
    assert (caught.value.acked, caught.value.link) == (2, box.links[2])
    assert wallet(node) == -20 * 10_000
    assert send(node, box.segment(3)).acked == 4


def test_a_heartbeat_renews_the_lease(node: Node, clock: HeldClock, box: Box) -> None:
    first = send(node, box.heartbeat())
    clock.now_ms += 60_000
    second = send(node, box.heartbeat())
    assert second.lease.expires_ms == first.lease.expires_ms + 60_000
    assert second.lease.lease_id != first.lease.lease_id
    assert (second.acked, second.link) == (0, FIRST_LINK)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_fork_freezes_the_device_and_is_proven(
    node: Node, box: Box, overlap: bool, caplog: pytest.LogCaptureFixture
) -> None:
    box.use_paise(10)
    clone = box.copy()
    box.use_paise(20)
    clone.use_paise(30)
    clone.use_paise(5)
    send(node, box.segment())
    forked = clone.segment(2) if overlap else clone.segment(3)
    for code in ("fork", "device_frozen"):
        with pytest.raises(Refusal) as caught:
            ingest(node, forked)
        assert (caught.value.status, caught.value.code) == (422, code)
    with pytest.raises(Refusal, match="enrols again"):
        ingest(node, box.heartbeat())
    assert wallet(node) == -30 * 10_000
    with node.database.snapshot() as connection:
        kept = connection.execute("select payload, signature from forks").fetchall()
    assert kept == [(forked.payload, forked.signature)]
    with node.database.snapshot() as connection:
        fork = evidence.find_fork(connection, box.device, 1)
    assert fork is not None and fork.older is not None
    assert (fork.seq, fork.newer) == (2, forked)
    # A stranger with the device's public key alone sees that it signed two different records for one place.
    sides = []
    for side in (fork.older, fork.newer):
        side.verify(box.key.public_key().public_bytes_raw())
        said = Segment.from_bytes(side.payload)
        verify_chain(said)
        sides.append(said.records[2 - said.first] if said.first <= 2 else said.link_before)
    assert sides == [box.records[1], clone.records[1] if overlap else clone.links[2]]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert box.device.hex() in caplog.text and "fork" in caplog.text
    again = join(node, "sharma", box.device, box.key)
    assert again.epoch == 2
    assert send(node, again.heartbeat()).acked == 0


def test_a_restored_backup_is_told_how_far_it_was(node: Node, box: Box) -> None:
    box.use_paise(10)
    backup = box.copy()
    box.use_paise(10)
    send(node, box.segment())
    assert send(node, backup.heartbeat()).acked == 2
    backup.use_paise(11)
    assert refusal(node, backup, Segment.from_bytes(backup.segment(2).payload)).code == "fork"


def test_only_the_enrolled_key_counts(node: Node, box: Box) -> None:
    box.use_paise(10)
    thief = replace(box, key=Ed25519PrivateKey.generate())
    stranger = replace(box, device=bytes(16))
    later = replace(box, epoch=2)
    for forger in (thief, stranger, later):
        found = refusal(node, forger, Segment(forger.device, forger.epoch, 1, FIRST_LINK, FIRST_LINK, (), bytes(16)))
        assert (found.status, found.code) == (401, "unauthorized")
    assert count(node, "select count(*) from records") == 0


def test_a_broken_chain_is_refused_whole_and_freezes_nothing(node: Node, box: Box) -> None:
    box.use_paise(10)
    box.use_paise(20)
    good = Segment.from_bytes(box.segment().payload)
    broken = [
        replace(good, link_after=bytes(32)),
        replace(good, records=good.records[::-1]),
        replace(good, records=(good.records[0], good.records[0])),
        replace(good, records=(good.records[0], b"\x00")),
    ]
    for segment in broken:
        assert refusal(node, box, segment).code == "inconsistent"
    assert wallet(node) == 0
    assert send(node, box.segment()).acked == 2


def test_an_unknown_price_book_is_refused_whole(node: Node, box: Box) -> None:
    box.use_paise(10)
    box.use({Unit.REQUESTS: 1}, Meter.SEARCH, price_book=b"x" * 32)
    assert refusal(node, box, Segment.from_bytes(box.segment().payload)).code == "unknown_price_book"
    assert wallet(node) == 0
    assert count(node, "select count(*) from records") == 0
    assert send(node, box.segment(1, 1)).acked == 1


def forge(box: Box, how: str, other: Box) -> None:
    """A record that names a lease and price book which were not issued together to this box."""
    if how == "made up":
        box.lease = b"l" * 16
    elif how == "of another box":
        box.lease = other.lease
    else:  # Its own lease with a book that came later, or never to this box.
        box.use({Unit.POINTS_IN: 1000}, price_book=CHEAP.digest)
        return
    box.use_paise(10)


@pytest.mark.parametrize("how", ["made up", "of another box", "another book"])
def test_a_lease_that_was_not_issued_to_this_box_is_refused_and_shown(
    node: Node, box: Box, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with node.database.transaction() as connection:
        books.store(connection, CHEAP, START_MS)
    honest = box.lease
    box.use_paise(10)
    forge(box, how, make_box(node, "sharma", seed=2))
    for _ in range(3):
        assert refusal(node, box, Segment.from_bytes(box.segment().payload)).code == "unknown_lease"
    assert wallet(node) == 0
    assert len(caplog.records) == 1 and box.device.hex() in caplog.text
    assert shown(node, box) == ("refused", "unknown_lease")
    box.lease = honest
    assert send(node, box.segment(1, 1)).acked == 1
    assert shown(node, box) == ("active", None)


def shown(node: Node, box: Box) -> tuple[str, str | None]:
    with node.database.snapshot() as connection:
        (found,) = (one for one in devices.list_states(connection, "sharma", 9) if one.device == box.device)
    return found.state, found.refused


def test_a_lease_of_an_earlier_answer_counts_also_after_a_restart_of_the_box(node: Node, box: Box) -> None:
    """Old records under old leases, of answers of which some were lost, come late and in order."""
    held = [send(node, box.heartbeat()).lease.lease_id for _ in range(5)]
    for lease in (held[1], held[4], held[1]):
        box.lease = lease
        box.use_paise(1)
    assert send(node, box.segment()).acked == 3


def test_an_implausible_cost_is_refused(node: Node, box: Box) -> None:
    box.use({Unit.REQUESTS: 10**9}, Meter.SEARCH)
    assert send(node, box.segment()).balance == -(10**12)
    for _ in range(11):
        box.use({Unit.REQUESTS: 10**9}, Meter.SEARCH)
    assert refusal(node, box, Segment.from_bytes(box.segment().payload)).code == "implausible"
    assert wallet(node) == -(10**12)


def test_free_use_is_kept_and_posts_nothing(node: Node, box: Box) -> None:
    box.use({Unit.TOKENS_IN: 5})
    box.use({})
    assert send(node, box.segment()).balance == 0
    assert count(node, "select count(*) from records where entry is null") == 2
    assert count(node, "select count(*) from entries") == 0


def test_use_is_dated_in_order_and_never_in_the_future(node: Node, clock: HeldClock, box: Box) -> None:
    for wall_ms in (START_MS + 10, START_MS - 10**9, START_MS + 50, START_MS + 10**12, START_MS + 60):
        box.use_paise(1, wall_ms)
    clock.now_ms += 100
    send(node, box.segment())
    with node.database.snapshot() as connection:
        dated = [row[0] - START_MS for row in connection.execute("select used_ms from records order by seq")]
    assert dated == [10, 10, 50, 100, 100]


def test_an_older_epoch_is_billed_but_gets_no_credit(node: Node, box: Box) -> None:
    box.use_paise(10)
    newer = join(node, "sharma", box.device, Ed25519PrivateKey.generate())
    assert newer.epoch == 2
    receipt = send(node, box.segment())
    assert receipt.balance == -10 * 10_000
    assert (receipt.lease.granted, receipt.lease.allowance) == (0, 0)
    assert receipt.lease.expires_ms == receipt.node_ms
    newer.use_paise(5)
    assert send(node, newer.segment()).balance == -15 * 10_000


def test_one_segment_from_many_threads_at_once(node: Node, box: Box) -> None:
    for _ in range(50):
        box.use_paise(2)
    answers: list[Receipt] = []
    start = threading.Barrier(8)

    def hand_in() -> None:
        start.wait()
        answers.append(send(node, box.segment()))

    threads = [threading.Thread(target=hand_in) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(answer.acked, answer.balance) for answer in answers] == [(50, -RUPEE)] * 8
    assert count(node, "select count(*) from records") == 50
    assert balances(node) == (RUPEE, RUPEE, 0)


@pytest.mark.parametrize("seed", range(3))
def test_loss_replay_and_disorder_give_the_same_bill(node: Node, clock: HeldClock, seed: int) -> None:
    """Boxes of two customers send random runs of what they have, again and again, while money is paid in."""
    dice = random.Random(seed)
    boxes = [make_box(node, make_customer(node, f"shop-{n % 2}"), seed=n) for n in range(3)]
    paid: Counter[str] = Counter()
    for step in range(60):
        clock.now_ms += dice.randrange(100_000)
        box = dice.choice(boxes)
        for _ in range(dice.randrange(4)):
            units = {unit: dice.randrange(1, 3000) for unit in dice.sample(list(Unit), dice.randrange(4))}
            box.use(units, dice.choice(list(Meter)), START_MS + dice.randrange(10**7))
        first = dice.randrange(1, len(box.records) + 2)
        last = dice.randrange(first - 1, len(box.records) + 1)
        try:
            receipt = send(node, box.segment(first, last))
            box.lease = dice.choice([box.lease, receipt.lease.lease_id])
        except Gap as gap:
            assert gap.link == box.links[gap.acked]
        if dice.random() < 0.1:
            paise = dice.randrange(100, 10_000)
            pay(node, box.customer, paise, f"{step:012}")
            paid[box.customer] += paise * 10_000
        debits, credits, drift = balances(node)
        assert debits == credits and drift == 0
    used: Counter[str] = Counter()
    for box in boxes:
        send(node, box.segment())
        for data in box.records:
            draft = decode(data).draft
            used[box.customer] += cost(BOOK, draft.meter, draft.units)
    assert count(node, "select count(*) from records") == sum(len(box.records) for box in boxes)
    for customer in ("shop-0", "shop-1"):
        assert wallet(node, customer) == paid[customer] - used[customer]
