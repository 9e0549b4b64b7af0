"""Chat and plain completions over the real meter and ledger: what is answered, billed and told."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from appliance.box import Box
from appliance.engine.protocol import EngineUnavailable, Overloaded
from appliance.text.points import count_points
from sync.record import Meter, Outcome, Unit
from tests.support.box import Street, eventually
from tests.support.fake_engine import CHAT_MODEL

KEY_ID = 1  # the caller's: the first key of the box
TEXT = "नमस्ते दुनिया आज का भाव क्या है"


def chat(text: str = TEXT, **more: Any) -> dict[str, Any]:
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}], **more}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_whole_chat_tells_its_record_cost_and_units(caller: httpx.AsyncClient, box: Box) -> None:
    answer = await caller.post("/v1/chat/completions", json=chat())

    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    (record,) = box.ledger.records(0)
    points = count_points(TEXT)
    assert record.draft.units == {
        Unit.REQUESTS: 1,
        Unit.POINTS_IN: points,
        Unit.POINTS_OUT: points,
        Unit.TOKENS_IN: answer.json()["usage"]["prompt_tokens"],
        Unit.TOKENS_OUT: answer.json()["usage"]["completion_tokens"],
    }
    assert (record.draft.meter, record.draft.outcome) == (Meter.CHAT, Outcome.COMPLETED)
    assert answer.headers["X-Nukkad-Record"] == record.name
    assert answer.headers["X-Nukkad-Cost"] == "0.00155"  # 31 points at ₹0.010 and 31 at ₹0.040 per 1,000
    assert f"points_in={points}, points_out={points}" in answer.headers["X-Nukkad-Units"]


async def test_a_stream_gives_the_same_text_and_its_charge_in_the_last_chunk(
    caller: httpx.AsyncClient, box: Box
) -> None:
    request_id = str(uuid4())
    asked = chat(stream=True, stream_options={"include_usage": True})
    answer = await caller.post("/v1/chat/completions", json=asked, headers={"X-Request-Id": request_id})

    *pieces, closing, usage = events(answer)
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == TEXT
    assert closing["choices"][0]["finish_reason"] == "stop"
    (record,) = box.ledger.records(0)
    assert closing["nukkad"]["record"] == record.name
    assert closing["nukkad"]["request_id"] == request_id == answer.headers["X-Request-Id"]
    assert closing["nukkad"]["units"]["points_out"] == count_points(TEXT)
    assert usage["usage"]["completion_tokens"] == record.draft.units[Unit.TOKENS_OUT]
    assert record.draft.request_id.hex() == request_id.replace("-", "")


async def test_plain_completions_are_metered_as_such(caller: httpx.AsyncClient, box: Box) -> None:
    asked = {"model": CHAT_MODEL, "prompt": TEXT, "max_tokens": 2}
    whole = await caller.post("/v1/completions", json=asked)
    streamed = await caller.post("/v1/completions", json={**asked, "stream": True})

    assert whole.json()["choices"][0] == {
        "index": 0,
        "text": "नमस्ते दुनिया ",
        "logprobs": None,
        "finish_reason": "length",
    }
    pieces = events(streamed)
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == "नमस्ते दुनिया "
    assert pieces[-1]["choices"][0]["finish_reason"] == "length"
    assert {record.draft.meter for record in box.ledger.records(0)} == {Meter.COMPLETION}


async def test_points_are_counted_on_the_whole_answer_not_on_its_pieces(caller: httpx.AsyncClient, box: Box) -> None:
    decomposed = "e ́ x"  # The accent begins a piece of its own and stays apart.
    joined = "क ़"
    for text in (decomposed, joined):
        answer = await caller.post("/v1/chat/completions", json=chat(text, stream=True))
        told = "".join(event["choices"][0]["delta"].get("content", "") for event in events(answer))
        assert box.ledger.records(0)[-1].draft.units[Unit.POINTS_OUT] == count_points(told)


async def test_an_engine_that_dies_before_its_first_text_gives_503_and_is_free(
    caller: httpx.AsyncClient, box: Box, street: Street
) -> None:
    for failure, code in ((EngineUnavailable("gone"), "engine_unavailable"), (Overloaded("full"), "overloaded")):
        street.engine.failure = failure
        for stream in (False, True):
            answer = await caller.post("/v1/chat/completions", json=chat(stream=stream))
            # The list of models comes from the engine too, so the failure may show before the call is made.
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, code)
            assert int(answer.headers["Retry-After"]) >= 1
    assert box.ledger.head().seq == 0


async def test_an_engine_that_dies_in_mid_stream_ends_it_with_an_error_and_is_free(
    caller: httpx.AsyncClient, box: Box, street: Street
) -> None:
    street.engine.break_after = 2
    answer = await caller.post("/v1/chat/completions", json=chat(stream=True))

    assert answer.status_code == 200
    lines = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    assert lines[-1]["error"]["code"] == "engine_unavailable"
    assert box.ledger.head().seq == 0
    assert box.meter.credit().reserved == 0  # type: ignore[union-attr]


async def test_a_cancelled_stream_ends_in_order_and_pays_for_what_it_gave(
    caller: httpx.AsyncClient, box: Box, street: Street
) -> None:
    request_id = uuid4()
    street.engine.allowed = 2
    headers = {"X-Request-Id": str(request_id)}
    asked = chat("one two three", stream=True)
    call = asyncio.create_task(caller.post("/v1/chat/completions", json=asked, headers=headers))
    await eventually(lambda: street.engine.allowed == 0)
    waiting = await caller.get(f"/v1/usage/requests/{request_id}")
    assert (waiting.status_code, waiting.json()["error"]["code"]) == (409, "still_running")

    assert (await caller.post(f"/v1/requests/{request_id}/cancel")).status_code == 202
    *given, closing = events(await call)

    told = "".join(event["choices"][0]["delta"]["content"] for event in given)
    assert told == "one two "
    assert (closing["nukkad"]["outcome"], closing["nukkad"]["units"]["points_out"]) == ("cancelled", count_points(told))
    found = await caller.get(f"/v1/usage/requests/{request_id}")
    assert found.json()["units"] == closing["nukkad"]["units"]
    assert street.engine.cancelled == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_cancelled_before_any_text_is_free(
    caller: httpx.AsyncClient, box: Box, street: Street, stream: bool
) -> None:
    street.engine.allowed = 0
    request_id = uuid4()
    headers = {"X-Request-Id": str(request_id)}
    call = asyncio.create_task(caller.post("/v1/chat/completions", json=chat(stream=stream), headers=headers))
    await eventually(lambda: box.running.find(KEY_ID, request_id) is not None)
    assert (await caller.post(f"/v1/requests/{request_id}/cancel")).status_code == 202
    await call

    answer = await caller.get(f"/v1/usage/requests/{request_id}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_billed")
    assert box.ledger.head().seq == 0


async def test_another_key_can_neither_cancel_nor_see_a_call(
    caller: httpx.AsyncClient, box: Box, street: Street
) -> None:
    request_id = uuid4()
    headers = {"X-Request-Id": str(request_id)}
    street.engine.allowed = 0
    call = asyncio.create_task(caller.post("/v1/chat/completions", json=chat(), headers=headers))
    await eventually(lambda: box.running.find(KEY_ID, request_id) is not None)
    async with street.caller(box) as other:
        assert (await other.post(f"/v1/requests/{request_id}/cancel")).status_code == 404
        street.engine.allowed = None
        assert (await call).status_code == 200
        assert (await other.get(f"/v1/usage/requests/{request_id}")).status_code == 404
    assert (await caller.get(f"/v1/usage/requests/{request_id}")).status_code == 200


async def test_one_request_id_is_served_once(caller: httpx.AsyncClient, box: Box) -> None:
    headers = {"X-Request-Id": str(uuid4())}
    first = await caller.post("/v1/chat/completions", json=chat(), headers=headers)
    again = await caller.post("/v1/chat/completions", json=chat(), headers=headers)

    assert first.status_code == 200
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_recorded")
    assert box.ledger.head().seq == 1


@pytest.mark.parametrize(
    "asked", ["not-a-uuid", "{3f2b8c1e-5a70-4d7e-9b56-0c1d2e3f4a5b}", "3f2b8c1e5a704d7e9b560c1d2e3f4a5b"]
)
async def test_a_request_id_must_be_a_uuid(caller: httpx.AsyncClient, asked: str) -> None:
    answer = await caller.post("/v1/chat/completions", json=chat(), headers={"X-Request-Id": asked})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Request-Id")
