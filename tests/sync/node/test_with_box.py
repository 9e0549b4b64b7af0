"""The two sides together: a box's ledger, worker and HTTP client against the real node, with nothing faked between."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sync.enrol import enrol
from sync.errors import Conflict, Refused, Unreachable
from sync.identity import Identity, load_or_create
from sync.ledger import Ledger
from sync.node import codes
from sync.node.app import create_app
from sync.node.context import Node
from sync.transport import HttpNode
from sync.worker import SyncWorker
from tests.support.held_clock import HeldClock
from tests.support.usage import BOOK, append, make_draft
from tests.sync.node.world import count, make_customer

URL = "http://127.0.0.1:8471"
RECORD_COST = 14_000


class Line(httpx.ASGITransport):
    """A line to the node that can lose answers."""

    answers_lost = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await super().handle_async_request(request)
        if self.answers_lost:
            self.answers_lost -= 1
            await answer.aclose()
            raise httpx.ReadTimeout("lost")
        return answer


@pytest.fixture
def line(node: Node) -> Line:
    return Line(create_app(node.settings, node.database, node.clock, node.random, key=node.key, token=node.token))


@pytest.fixture
async def http(line: Line) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=line) as http:
        yield http


def make_code(node: Node, customer: str) -> str:
    with node.database.transaction() as connection:
        return codes.issue(connection, customer, node.clock.wall_ms(), node.random)


async def enrol_box(node: Node, http: httpx.AsyncClient, folder: Path, clock: HeldClock) -> Identity:
    identity = load_or_create(folder)
    client = HttpNode(URL, http, identity, clock)
    return await enrol(folder, identity, client, make_code(node, make_customer(node)))


def open_worker(
    folder: Path, identity: Identity, http: httpx.AsyncClient, clock: HeldClock, name: str = "ledger.db"
) -> tuple[Ledger, SyncWorker]:
    assert identity.enrolment
    node_key = identity.enrolment.node_public_key
    ledger = Ledger(folder / name, identity.device, identity.epoch, b"b" * 16, clock, node_key=node_key)
    ledger.store_price_book(BOOK).result()
    return ledger, SyncWorker(ledger, HttpNode(URL, http, identity, clock), identity, clock)


def use(ledger: Ledger, count: int) -> None:
    """Calls under the lease that the box holds."""
    receipt = ledger.receipt()
    assert receipt is not None
    append(ledger, count, lease=receipt.lease.lease_id)


def billed(node: Node) -> int:
    return count(node, "select count(*) from records")


async def test_from_enrolment_to_a_bill_that_both_sides_agree_on(
    node: Node, http: httpx.AsyncClient, tmp_path: Path, clock: HeldClock
) -> None:
    identity = await enrol_box(node, http, tmp_path, clock)
    ledger, worker = open_worker(tmp_path, identity, http, clock)
    with ledger:
        first = await worker.sync_now()
        assert (first.acked, first.balance) == (0, 0)
        use(ledger, 1203)
        receipt = await worker.sync_now()
        assert (receipt.acked, receipt.balance) == (1203, -ledger.spent(0)) == (1203, -1203 * RECORD_COST)
        assert ledger.receipt() == receipt
        assert receipt.topup.link.startswith("upi://pay?")
    ledger, worker = open_worker(tmp_path, identity, http, clock)
    with ledger:
        assert ledger.receipt() == receipt
        clock.advance(60)
        assert (await worker.sync_now()).acked == 1203
    assert billed(node) == 1203


async def test_lost_answers_bill_nothing_twice(
    node: Node, line: Line, http: httpx.AsyncClient, tmp_path: Path, clock: HeldClock
) -> None:
    identity = await enrol_box(node, http, tmp_path, clock)
    ledger, worker = open_worker(tmp_path, identity, http, clock)
    with ledger:
        await worker.sync_now()
        for _ in range(3):
            use(ledger, 5)
            line.answers_lost = 1
            with pytest.raises(Unreachable):
                await worker.sync_now()
        receipt = await worker.sync_now()
        assert (receipt.acked, receipt.balance, billed(node)) == (15, -15 * RECORD_COST, 15)


async def test_a_box_that_lost_its_newest_records_is_told_so(
    node: Node, http: httpx.AsyncClient, tmp_path: Path, clock: HeldClock
) -> None:
    """Its ledger was put back from an older copy: the node knows more, and another history begins to differ."""
    identity = await enrol_box(node, http, tmp_path, clock)
    ledger, worker = open_worker(tmp_path, identity, http, clock)
    with ledger:
        await worker.sync_now()
        use(ledger, 5)
        await worker.sync_now()
    ledger, worker = open_worker(tmp_path, identity, http, clock, name="restored.db")
    with ledger:
        ledger.append(make_draft()).result()
        with pytest.raises(Conflict, match="fork"):
            await worker.sync_now()
        assert worker.status().acked == 0
    assert billed(node) == 5


async def test_top_ups_go_through_with_the_boxs_signature_even_with_a_wrong_clock(
    node: Node, http: httpx.AsyncClient, tmp_path: Path, clock: HeldClock
) -> None:
    identity = await enrol_box(node, http, tmp_path, clock)
    client = HttpNode(URL, http, identity, HeldClock(0))
    topup = await client.request_topup(50_000, "wish-0001")
    assert (topup.amount_paise, topup.status) == (50_000, "open")
    assert await client.request_topup(50_000, "wish-0001") == topup
    assert await client.find_topup(topup.reference) == topup
    with pytest.raises(Refused, match="unknown_topup"):
        await client.find_topup("NOSUCH")


async def test_a_code_is_good_for_one_box(
    node: Node, http: httpx.AsyncClient, tmp_path: Path, clock: HeldClock
) -> None:
    code = make_code(node, make_customer(node))
    for name in ("one", "two"):
        identity = load_or_create(tmp_path / name)
        client = HttpNode(URL, http, identity, clock)
        if name == "one":
            assert (await enrol(tmp_path / name, identity, client, code)).epoch == 1
        else:
            with pytest.raises(Refused, match="code_used"):
                await enrol(tmp_path / name, identity, client, code)
