"""Corrections by hand: once for ever by their id, balanced, and never silent."""

from collections.abc import AsyncIterator

import httpx
import pytest

from sync.node.context import Node
from tests.sync.node.test_app import OPERATOR, code_of, make_client
from tests.sync.node.world import balances, count, make_customer

PATH = "/v1/customers/sharma/adjustments"
WISH = {"id": "ticket-17", "amount_paise": 2550, "reason": "two days without a line"}


@pytest.fixture
async def client(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    make_customer(node)
    async with make_client(node) as client:
        yield client


async def test_an_adjustment_is_posted_once(client: httpx.AsyncClient, node: Node) -> None:
    for posted in (True, False, False):
        answer = (await client.post(PATH, json=WISH, headers=OPERATOR)).json()
        assert (answer["posted"], answer["balance"], answer["amount_rupees"]) == (posted, 25_500_000, "25.50")
    assert balances(node) == (25_500_000, 25_500_000, 0)
    listed = (await client.get("/v1/trial-balance", headers=OPERATOR)).json()
    assert listed["balanced"]
    assert {one["account"]: one["debits"] for one in listed["accounts"]}["adjustments"] == 25_500_000
    statement = (await client.get("/v1/customers/sharma/statement", headers=OPERATOR)).json()
    assert [(one["id"], one["reason"]) for one in statement["adjustments"]] == [("ticket-17", WISH["reason"])]
    assert (statement["adjusted"], statement["closing"], statement["final"]) == (25_500_000, 25_500_000, False)


async def test_an_id_stands_for_one_adjustment(client: httpx.AsyncClient, node: Node) -> None:
    make_customer(node, "other")
    await client.post(PATH, json=WISH, headers=OPERATOR)
    for change in ({"amount_paise": 2551}, {"reason": "another"}):
        assert code_of(await client.post(PATH, json={**WISH, **change}, headers=OPERATOR)) == "id_used"
    elsewhere = await client.post(PATH.replace("sharma", "other"), json=WISH, headers=OPERATOR)
    assert (elsewhere.status_code, code_of(elsewhere)) == (409, "id_used")
    assert count(node, "select count(*) from entries") == 1


@pytest.mark.parametrize(
    "change", [{"amount_paise": 0}, {"amount_paise": -10_000_001}, {"id": "a b"}, {"reason": " "}, {"reason": "a\nb"}]
)
async def test_a_bad_adjustment_is_refused_by_field(
    client: httpx.AsyncClient, node: Node, change: dict[str, object]
) -> None:
    refused = await client.post(PATH, json={**WISH, **change}, headers=OPERATOR)
    assert refused.status_code == 422
    assert refused.json()["error"]["message"].startswith(f"{next(iter(change))}: must be")
    assert balances(node) == (0, 0, 0)


async def test_it_needs_a_customer_and_the_operator(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json=WISH)).status_code == 401
    unknown = await client.post(PATH.replace("sharma", "nobody"), json=WISH, headers=OPERATOR)
    assert (unknown.status_code, code_of(unknown)) == (404, "unknown_customer")
