"""A box's life: stopping in order, being enrolled while it runs, and refusing to run twice."""

import asyncio
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from appliance import state
from appliance.address import AddressError
from appliance.address import check as check_address
from appliance.claim import claimed
from appliance.cli import EXPECTED
from appliance.serve import serve
from appliance.settings import Settings
from appliance.state import StateError
from appliance.text.points import count_points
from sync.errors import LedgerUnavailable
from sync.identity import load_or_create
from sync.ledger import Ledger
from tests.support.box import Served, Street, eventually, served
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL
from tests.support.held_clock import HeldClock
from tests.support.held_disk import HeldDisk
from tests.support.house import answers, free_port, wait_until

CHAT: dict[str, Any] = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "one two three"}], "stream": True}


def in_background(shop: Served, request_id: str) -> tuple[threading.Thread, list[httpx.Response]]:
    got: list[httpx.Response] = []
    headers = {"Authorization": f"Bearer {shop.key}", "X-Request-Id": request_id}

    def ask() -> None:
        got.append(
            httpx.post(f"{shop.url}/v1/chat/completions", json=CHAT, headers=headers, trust_env=False, timeout=30)
        )

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, got


def test_a_stopping_box_ends_streams_in_order_and_bills_what_they_gave(tmp_path: Path) -> None:
    street = Street(tmp_path)
    with served(street, stop_s=0) as shop:
        street.engine.allowed = 2
        thread, got = in_background(shop, str(uuid4()))
        wait_until(lambda: street.engine.allowed == 0, "two words were given")
        time.sleep(0.05)
        shop.stop()
        thread.join()

    events = [
        json.loads(line.removeprefix("data: ")) for line in got[0].text.split("\n\n") if line.startswith("data: {")
    ]
    told = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert got[0].text.endswith("data: [DONE]\n\n")
    assert events[-1]["nukkad"]["outcome"] == "cancelled"
    assert events[-1]["nukkad"]["units"]["points_out"] == count_points(told)
    identity = load_or_create(street.folder)
    with Ledger(
        street.folder / "ledger-1.db",
        identity.device,
        1,
        b"b" * 16,
        HeldClock(),
        node_key=identity.enrolment.node_public_key,  # type: ignore[union-attr]
    ) as ledger:
        assert ledger.head().seq == 1


def test_a_stopping_box_lets_calls_finish_that_can(tmp_path: Path) -> None:
    street = Street(tmp_path)
    with served(street, stop_s=20) as shop:
        street.engine.allowed = 1
        thread, got = in_background(shop, str(uuid4()))
        wait_until(lambda: street.engine.allowed == 0, "a word was given")
        shop.ask_to_stop()
        with pytest.raises(httpx.HTTPError):
            while True:
                httpx.get(f"{shop.url}/healthz", trust_env=False)
        street.engine.allowed = None
        thread.join()
        assert '"outcome":"completed"' in got[0].text


def test_a_running_box_can_be_enrolled(tmp_path: Path) -> None:
    street = Street(tmp_path)
    with served(street, enrolled=False) as shop:
        caller = {"Authorization": f"Bearer {shop.key}"}
        operator = {"Authorization": f"Bearer {state.admin_token(street.folder)}"}
        body = {"model": EMBED_MODEL, "input": "x"}

        def embed() -> int:
            return httpx.post(f"{shop.url}/v1/embeddings", json=body, headers=caller, trust_env=False).status_code

        assert embed() == 403
        url = f"{shop.url}/v1/admin/enrol"
        wrong = httpx.post(url, json={"code": "BAD"}, headers=operator, trust_env=False)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "refused_by_node")
        answer = httpx.post(url, json={"code": "GOOD-CODE"}, headers=operator, trust_env=False)
        assert answer.json() == {"customer": "shop", "epoch": 1}

        def serves() -> bool:
            try:
                return embed() == 200
            except httpx.HTTPError:  # While the box opens its parts anew.
                return False

        wait_until(serves, "the enrolled box serves")
        again = httpx.post(url, json={"code": "GOOD-CODE"}, headers=operator, trust_env=False)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_a_box_whose_ledger_has_failed_ends_so_that_it_is_started_again(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HeldDisk("serve-dead")
    monkeypatch.setattr("appliance.serve.Ledger", partial(Ledger, vfs=disk.name))
    settings = Settings(state=street.folder, port=free_port())
    headers = {"Authorization": f"Bearer {street.new_key()}"}
    url = f"http://127.0.0.1:{settings.port}"
    serving = asyncio.create_task(serve(settings, street.engine, street.clock, asyncio.Event(), street.connect))
    await asyncio.to_thread(wait_until, lambda: answers(f"{url}/readyz"), "the box is ready")
    street.engine.allowed = 1
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        streaming = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT))
        await eventually(lambda: street.engine.allowed == 0)
        disk.works_left = 0
        failed = await client.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x"})
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "ledger_unavailable")
        # A stream that could not be billed is not served to its end.
        assert '"ledger_unavailable"' in (await streaming).text
    with pytest.raises(LedgerUnavailable):
        await serving
    assert issubclass(LedgerUnavailable, EXPECTED)  # The command line tells it and exits with 1.


def test_one_folder_has_one_box_and_one_port_has_one_listener(tmp_path: Path) -> None:
    with served(Street(tmp_path)) as shop:
        with pytest.raises(StateError, match="running on it already"), claimed(shop.settings):
            pass
        with pytest.raises(AddressError, match="NUKKAD_PORT"):
            check_address("127.0.0.1", shop.port)
        other = Settings(state=tmp_path / "other", port=shop.port)
        with pytest.raises(AddressError, match="cannot listen"), claimed(other):
            pass
        assert state.is_held(shop.settings.state)
    assert not state.is_held(shop.settings.state)
    check_address("127.0.0.1", shop.port)


def test_a_folder_that_others_may_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(StateError, match="chmod 700"):
        state.prepare(tmp_path)


def test_the_admin_token_is_private_and_stays(tmp_path: Path) -> None:
    token = state.admin_token(tmp_path)
    assert token == state.admin_token(tmp_path)
    assert len(token) == 68
    assert (tmp_path / state.ADMIN_TOKEN).stat().st_mode & 0o777 == 0o600


async def test_calls_that_were_recorded_survive_a_box_that_just_vanishes(street: Street) -> None:
    async with street.box() as box, street.caller(box) as caller:
        answer = await caller.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x"})
        await asyncio.sleep(0)
    async with street.box() as box:
        assert [record.name for record in box.ledger.records(0)] == [answer.headers["X-Nukkad-Record"]]
