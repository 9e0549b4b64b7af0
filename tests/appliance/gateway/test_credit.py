"""What a caller hears when money is missing; a stream that ends with the lease is billed for what it gave."""

import json
from pathlib import Path

import pytest

from appliance.text.points import count_points
from sync.record import Outcome, Unit
from tests.support.box import Street
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL

EMBED = {"model": EMBED_MODEL, "input": "x" * 250}  # ₹0.001


@pytest.fixture
async def poor(tmp_path: Path) -> Street:
    made = Street(tmp_path, wallet=2_500)  # ₹0.0025: two calls
    await made.enrol()
    return made


async def test_402_carries_the_link_and_says_what_is_left(poor: Street) -> None:
    async with poor.box() as box, poor.caller(box) as caller:
        assert [(await caller.post("/v1/embeddings", json=EMBED)).status_code for _ in range(3)] == [200, 200, 402]
        error = (await caller.post("/v1/embeddings", json=EMBED)).json()["error"]
        assert error["code"] == "credit_exhausted"
        assert error["topup"] == "upi://pay?pa=shop@bank&tr=NK1"
        assert "₹0.0025 was granted" in error["message"]
        assert "₹0.0005 is left" in error["message"]

        poor.node.wallet += 10_000
        assert box.worker is not None
        await box.worker.sync_now()
        assert (await caller.post("/v1/embeddings", json=EMBED)).status_code == 200


async def test_a_small_wallet_pays_for_a_short_answer_of_a_model_that_could_give_a_long_one(tmp_path: Path) -> None:
    street = Street(tmp_path, wallet=100_000)
    street.engine.context_tokens = 1_000_000
    await street.enrol()
    async with street.box() as box, street.caller(box) as caller:
        chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "hello"}]}
        assert (await caller.post("/v1/chat/completions", json=chat)).status_code == 200
        promised = await caller.post("/v1/chat/completions", json={**chat, "max_tokens": 1_000_000})
        assert promised.status_code == 402, "what a caller asks for is held in full"


async def test_an_ended_lease_is_402_and_asks_for_the_line(poor: Street) -> None:
    async with poor.box() as box, poor.caller(box) as caller:
        poor.clock.advance(73 * 3600)
        error = (await caller.post("/v1/embeddings", json=EMBED)).json()["error"]
        assert error["code"] == "lease_expired"
        assert "connect the line" in error["message"]


async def test_a_box_without_a_node_says_how_to_get_one(tmp_path: Path) -> None:
    street = Street(tmp_path)
    async with street.box() as box, street.caller(box) as caller:
        answer = await caller.post("/v1/embeddings", json=EMBED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_enrolled")
        assert "nukkad enrol CODE" in answer.json()["error"]["message"]
        assert (await caller.get("/v1/models")).status_code == 200


async def test_an_answer_that_outgrows_the_lease_is_cut_with_an_error_and_billed_as_given(tmp_path: Path) -> None:
    street = Street(tmp_path, wallet=2_000)  # ₹0.002: 50 code points out
    street.engine.context_tokens = 3  # Few tokens are reserved for, and each is longer than a reservation foresees.
    await street.enrol()
    async with street.box() as box, street.caller(box) as caller:
        street.engine.echo_times = 10
        chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "x" * 20}], "stream": True}
        answer = await caller.post("/v1/chat/completions", json=chat)
        events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]

        told = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
        assert events[-1]["error"]["code"] == "credit_exhausted"
        (record,) = box.ledger.records(0)
        assert record.draft.outcome is Outcome.CANCELLED
        assert record.draft.units[Unit.POINTS_OUT] == count_points(told) == 40
        assert events[-1]["nukkad"]["units"]["points_out"] == 40
        assert box.ledger.head().total <= 2_000
