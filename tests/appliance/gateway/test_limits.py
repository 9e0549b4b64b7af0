"""Places: how many requests the box works on, how many calls one key may have, and what is answered even then."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

from tests.support.box import Street, eventually
from tests.support.fake_engine import CHAT_MODEL

CHATS, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
CHAT = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "one two"}]}


async def test_a_full_box_says_so_and_stays_healthy(street: Street) -> None:
    async with street.box(concurrency=2) as box, street.caller(box) as caller:
        street.engine.allowed = 0
        others = [{"Authorization": f"Bearer {street.new_key()}"} for _ in range(2)]
        calls = [asyncio.create_task(caller.post("/v1/chat/completions", json=CHAT, headers=own)) for own in others]
        await eventually(lambda: len(box.running) == 2)
        refused = await caller.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await caller.get(path)).status_code == 200
        street.engine.allowed = None
        assert [(await call).status_code for call in calls] == [200, 200]
        assert (await caller.get("/v1/models")).status_code == 200


async def test_one_key_cannot_take_every_place(street: Street) -> None:
    async with street.box(key_concurrency=1) as box, street.caller(box) as caller, street.caller(box) as other:
        street.engine.allowed = 0
        call = asyncio.create_task(caller.post("/v1/chat/completions", json=CHAT))
        await eventually(lambda: len(box.running) == 1)
        refused = await caller.post("/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_calls")
        assert refused.headers["Retry-After"] == "1"
        street.engine.allowed = None
        assert (await other.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert (await call).status_code == 200
        assert (await caller.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_slow_bodies_of_one_key_leave_room_for_others(street: Street) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await sent.wait()
        yield b"}"

    sent = asyncio.Event()
    headers = {"Content-Type": "application/json"}
    async with street.box(concurrency=4) as box, street.caller(box) as caller, street.caller(box) as other:
        calls = [asyncio.create_task(caller.post(EMBEDDINGS, content=slow(), headers=headers)) for _ in range(3)]
        await asyncio.sleep(0.1)
        refused = await caller.post(EMBEDDINGS, content=b"{}", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_calls")
        assert (await other.get("/v1/models")).status_code == 200
        sent.set()
        assert [(await call).status_code for call in calls] == [400] * 3
        assert (await caller.get("/v1/models")).status_code == 200


async def test_a_key_whose_places_are_taken_still_ends_its_calls(street: Street) -> None:
    async with street.box(concurrency=2) as box, street.caller(box) as caller:
        street.engine.allowed = 0
        request_id = str(uuid4())
        call = asyncio.create_task(caller.post(CHATS, json=CHAT, headers={"X-Request-Id": request_id}))
        await eventually(lambda: len(box.running) == 1)
        assert (await caller.post(CHATS, json=CHAT)).status_code == 429
        assert (await caller.get(f"/v1/usage/requests/{request_id}")).status_code == 409
        assert (await caller.post(f"/v1/requests/{request_id}/cancel")).status_code == 202
        street.engine.allowed = None
        await call


async def test_the_engine_s_own_bound_is_503_and_the_refused_call_is_free(street: Street) -> None:
    async with street.box() as box, street.caller(box) as caller:
        street.engine.allowed = 0
        room = street.engine.slots + street.engine.queue
        calls = [asyncio.create_task(caller.post("/v1/chat/completions", json=CHAT)) for _ in range(room)]
        await eventually(lambda: street.engine._admitted == room)
        assert (await caller.post("/v1/chat/completions", json=CHAT)).json()["error"]["code"] == "overloaded"
        street.engine.allowed = None
        assert {(await call).status_code for call in calls} == {200}
        assert box.ledger.head().seq == room
