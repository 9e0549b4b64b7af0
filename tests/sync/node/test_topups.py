"""Money comes in once, whoever confirms it how often."""

import threading
from collections.abc import Callable

import psycopg
import pytest

from sync.node import accounts, customers, topups
from sync.node.context import Node
from sync.node.errors import Refusal
from sync.node.topups import Confirmation, StoredTopUp
from tests.support.held_clock import HeldClock
from tests.sync.node.world import RUPEE, balances, count, make_box, make_customer, send

UTR, OTHER = "412345678901", "HDFCR52026092112345678"


def request(node: Node, paise: int = 50_000, request_id: str = "request-1", customer: str = "sharma") -> StoredTopUp:
    with node.database.transaction() as connection:
        row = connection.execute("select id from devices where customer = %s", (customer,)).fetchone()
        assert row is not None
        return topups.request(
            connection, customer, row[0], request_id, paise, now_ms=node.clock.wall_ms(), random=node.random
        )


def standing(node: Node, customer: str = "sharma") -> StoredTopUp:
    with node.database.transaction() as connection:
        customers.lock(connection, customer)
        return topups.standing(connection, customer, node.clock.wall_ms(), node.random)


def confirm(node: Node, topup: StoredTopUp, utr: str = UTR, paise: int | None = None) -> Confirmation:
    with node.database.transaction() as connection:
        return topups.confirm(connection, topup.reference, utr, paise, now_ms=node.clock.wall_ms(), random=node.random)


def wallet(node: Node, customer: str = "sharma") -> int:
    with node.database.snapshot() as connection:
        return accounts.balance(connection, customer)


@pytest.fixture(autouse=True)
def box(node: Node) -> None:
    make_box(node, make_customer(node))


def test_a_payment_is_credited_and_the_box_hears_of_it(node: Node) -> None:
    topup = request(node)
    assert topup.status(node.clock.wall_ms()) == "open"
    done = confirm(node, topup)
    assert done.credited and done.topup.status(node.clock.wall_ms()) == "paid"
    assert wallet(node) == 500 * RUPEE
    box = make_box(node, "sharma", seed=2)
    assert send(node, box.heartbeat()).balance == 500 * RUPEE


def test_the_same_request_is_the_same_topup(node: Node) -> None:
    assert request(node) == request(node)
    assert request(node, request_id="request-2") != request(node)
    with pytest.raises(Refusal, match="another amount"):
        request(node, paise=1_000)


def test_a_second_confirmation_credits_nothing_and_says_so(node: Node) -> None:
    topup = request(node)
    assert confirm(node, topup).credited
    again = confirm(node, topup)
    assert not again.credited and again.topup.paid_paise == 50_000
    assert wallet(node) == 500 * RUPEE


def test_a_utr_never_pays_two_topups(node: Node) -> None:
    first, second = request(node), request(node, request_id="request-2")
    confirm(node, first)
    with pytest.raises(Refusal, match="another top-up") as caught:
        confirm(node, second)
    assert caught.value.code == "utr_used"
    assert wallet(node) == 500 * RUPEE


def test_a_fixed_topup_is_paid_once(node: Node) -> None:
    topup = request(node)
    confirm(node, topup)
    with pytest.raises(Refusal, match="standing") as caught:
        confirm(node, topup, OTHER)
    assert caught.value.code == "topup_paid"


def test_the_amount_of_a_fixed_topup_is_fixed(node: Node) -> None:
    topup = request(node)
    with pytest.raises(Refusal, match="amount_paise"):
        confirm(node, topup, paise=49_999)
    assert confirm(node, topup, paise=50_000).credited


@pytest.mark.parametrize("paise", [None, 0, 99, -500, 10_000_001])
def test_the_amount_of_a_standing_topup_is_needed(node: Node, paise: int | None) -> None:
    with pytest.raises(Refusal, match="amount_paise"):
        confirm(node, standing(node), paise=paise)


def test_a_paid_standing_topup_is_replaced(node: Node) -> None:
    first = standing(node)
    assert standing(node) == first
    confirm(node, first, paise=12_345)
    assert wallet(node) == 12_345 * 10_000
    assert count(node, "select count(*) from topups where standing and paid_ms is null") == 1
    second = standing(node)
    assert second.reference != first.reference and second.paid_ms is None
    confirm(node, second, OTHER, paise=100)
    assert wallet(node) == 12_445 * 10_000


def test_money_that_comes_late_is_credited(node: Node, clock: HeldClock) -> None:
    topup = request(node)
    clock.now_ms += topups.LIFE_MS + 1
    assert topup.status(node.clock.wall_ms()) == "expired"
    assert confirm(node, topup).credited
    assert wallet(node) == 500 * RUPEE


@pytest.mark.parametrize(
    "utr", ["", "41234567890", "4123456789012", "41234567890a", "HDFC0", "4123 4567 8901", "४" * 12]
)
def test_what_is_no_utr_is_refused(node: Node, utr: str) -> None:
    with pytest.raises(Refusal, match="utr:"):
        confirm(node, request(node), utr)


def test_small_letters_are_the_same_utr(node: Node) -> None:
    topup = request(node)
    assert confirm(node, topup, OTHER.lower()).credited
    assert not confirm(node, topup, OTHER).credited


def test_a_device_cannot_open_topups_without_end(node: Node, clock: HeldClock) -> None:
    for number in range(topups.OPEN_MAX):
        request(node, request_id=f"request-{number}")
    with pytest.raises(Refusal) as caught:
        request(node, request_id="one-too-many")
    assert caught.value.status == 429
    clock.now_ms += topups.LIFE_MS + 1
    request(node, request_id="one-too-many")


@pytest.mark.parametrize("same_customer", [True, False])
def test_one_utr_from_many_threads_at_once_credits_once(node: Node, same_customer: bool) -> None:
    if same_customer:
        wanted = [standing(node)] * 6
    else:
        make_customer(node, "other")
        wanted = [standing(node), standing(node, "other")] * 3
    done: list[bool | str] = []
    start = threading.Barrier(6)

    def try_it(topup: StoredTopUp) -> None:
        start.wait()
        try:
            done.append(confirm(node, topup, paise=10_000).credited)
        except Refusal as refusal:
            done.append(refusal.code)

    threads = [threading.Thread(target=try_it, args=(topup,)) for topup in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.count(True) == 1
    assert done.count(False) == (5 if same_customer else 2)
    assert done.count("utr_used") == (0 if same_customer else 3)
    assert count(node, "select count(*) from payments") == 1
    assert balances(node) == (100 * RUPEE, 100 * RUPEE, 0)


def test_requests_and_segments_at_once_never_wait_for_each_other(node: Node) -> None:
    """A request locks the customer and refers to the device; a segment locks the device and then the customer."""
    box = make_box(node, "sharma", seed=3)
    failures: list[Exception] = []

    def repeat(act: Callable[[int], object]) -> None:
        try:
            for number in range(40):
                act(number)
        except psycopg.Error as error:
            failures.append(error)

    def ask(number: int) -> object:
        with node.database.transaction() as connection:
            return topups.request(
                connection, "sharma", box.device, f"request-{number}", 500, now_ms=number, random=node.random
            )

    acts: list[Callable[[int], object]] = [ask, lambda number: send(node, box.heartbeat())]
    threads = [threading.Thread(target=repeat, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
