"""Search and its collections over HTTP: what is taken, what is refused, and what is billed."""

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, NoReturn
from uuid import uuid4

import httpx
import pytest

from appliance.box import Box
from appliance.engine.protocol import EmbedRequest, EmbedResult
from appliance.store import collections
from appliance.store.collections import Collections, Stored, Summary
from appliance.tasks import search as search_module
from appliance.tasks.search import TERM_WEIGHT
from sync.errors import LedgerUnavailable
from sync.record import Draft, Meter, Unit
from tests.support.box import Street, eventually
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL

ENTRIES: list[dict[str, Any]] = [
    {"id": "hours", "question": "दुकान कब खुलती है?", "answer": "सुबह आठ बजे", "tags": ["समय"], "language": "hi"},
    {"id": "emi", "question": "हप्त्यावर टीव्ही?", "answer": "हो"},
]
POINTS = sum(len("".join((entry["question"], entry["answer"], *entry.get("tags", ())))) for entry in ENTRIES)
SHEET = "\ufeffid,question,answer\nwater,தண்ணீர் கேன் உண்டா?,ஆம்\n".encode()
CSV = {"Content-Type": "text/csv; charset=utf-8"}


async def put(caller: httpx.AsyncClient, name: str = "faq") -> httpx.Response:
    return await caller.put(f"/v1/collections/{name}", json={"entries": ENTRIES})


async def test_upload_then_search(caller: httpx.AsyncClient, box: Box) -> None:
    made = await put(caller)
    assert made.status_code == 200, made.text
    assert made.json() == {"name": "faq", "model": EMBED_MODEL, "entries": 2, "revision": 1}
    found = await caller.post("/v1/tasks/search", json={"collection": "faq", "query": "दुकान कब खुलती है?", "limit": 1})
    assert found.status_code == 200, found.text
    (hit,) = found.json()["results"]
    assert {name: hit[name] for name in ENTRIES[0]} == ENTRIES[0]
    assert hit["score"] == pytest.approx(hit["meaning"] + TERM_WEIGHT * hit["terms"], abs=1e-5)
    assert found.headers["X-Nukkad-Record"].endswith(":2")

    indexing, search = (record.draft for record in box.ledger.records(0, 9))
    assert (indexing.meter, search.meter) == (Meter.EMBEDDING, Meter.SEARCH)
    assert indexing.units[Unit.POINTS_IN] == POINTS
    assert search.units[Unit.REQUESTS] == 1
    assert search.units[Unit.POINTS_IN] == len("दुकान कब खुलती है?")
    assert search.units[Unit.TOKENS_IN] > 0


async def test_the_same_upload_again_costs_nothing(caller: httpx.AsyncClient, box: Box) -> None:
    await put(caller)
    again = await put(caller)
    assert again.status_code == 200
    assert "X-Nukkad-Record" not in again.headers
    assert again.json()["revision"] == 2
    assert box.ledger.head().seq == 1


async def test_entries_that_have_no_room_are_refused_before_they_are_billed(
    caller: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "ENTRIES_MAX", 2)
    monkeypatch.setattr(collections, "COLLECTIONS_MAX", 1)
    await put(caller)
    for refused in (
        await caller.post("/v1/collections/faq/entries", json={"entries": [{**ENTRIES[0], "id": "third"}]}),
        await put(caller, "other"),
    ):
        assert refused.status_code == 409
        assert "at most" in refused.json()["error"]["message"]
    assert box.ledger.head().seq == 1


class HeldEmbedding:
    """The engine of the street embeds only after `go_on` is set; `asked` counts what waits or has gone on."""

    def __init__(self, street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()
        self._embed = street.engine.embed
        monkeypatch.setattr(street.engine, "embed", self.embed)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.asked += 1
        await self.go_on.wait()
        return await self._embed(request)


def more(entry_id: str) -> dict[str, Any]:
    return {"entries": [{"id": entry_id, "question": f"{entry_id}?", "answer": "yes"}]}


@pytest.mark.parametrize("path", ["/v1/collections/faq", "/v1/collections/faq/entries/hours"])
async def test_a_deletion_waits_for_the_upload_that_runs(
    caller: httpx.AsyncClient, box: Box, street: Street, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    await put(caller)
    held = HeldEmbedding(street, monkeypatch)
    upload = asyncio.create_task(caller.post("/v1/collections/faq/entries", json=more("gift")))
    await eventually(lambda: held.asked == 1)
    deletion = asyncio.create_task(caller.delete(path))
    await asyncio.sleep(0.05)  # enough for a deletion that waits for nobody
    assert not deletion.done()
    held.go_on.set()
    assert (await upload).status_code == 200
    assert (await upload).json()["entries"] == 3
    assert (await deletion).is_success
    assert box.ledger.head().seq == 2


async def test_of_two_uploads_for_the_last_place_one_is_refused_and_free(
    caller: httpx.AsyncClient, box: Box, street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "ENTRIES_MAX", 3)
    await put(caller)
    held = HeldEmbedding(street, monkeypatch)
    uploads = [asyncio.create_task(caller.post("/v1/collections/faq/entries", json=more(each))) for each in ("a", "b")]
    await eventually(lambda: held.asked == 1)
    await asyncio.sleep(0.05)  # enough for an upload that waits for nobody
    held.go_on.set()
    assert sorted([(await each).status_code for each in uploads]) == [200, 409]
    assert box.ledger.head().seq == 2
    assert (await caller.get("/v1/collections/faq")).json()["entries"] == 3


async def test_only_so_many_changes_wait(
    caller: httpx.AsyncClient, street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "CHANGES_MAX", 1)
    held = HeldEmbedding(street, monkeypatch)
    upload = asyncio.create_task(put(caller))
    await eventually(lambda: held.asked == 1)
    refused = await put(caller, "other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    held.go_on.set()
    assert (await upload).status_code == 200


async def test_what_cannot_be_kept_is_not_billed(caller: httpx.AsyncClient, box: Box) -> None:
    await put(caller)
    database = box.search._collections._database
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    entries = [{"id": str(n), "question": f"{n}?", "answer": "y" * 200} for n in range(100)]
    for refused in (
        await caller.put("/v1/collections/faq", json={"entries": entries}),
        await caller.post("/v1/collections/faq/entries", json={"entries": entries}),
        await caller.put("/v1/collections/new", json={"entries": entries}),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert box.ledger.head().seq == 1
    assert [each.name for each in await box.search.all()] == ["faq"]
    database.execute("PRAGMA max_page_count = 100000")
    kept = await caller.post("/v1/collections/faq/entries", json={"entries": entries})
    assert kept.json()["entries"] == 102
    assert "X-Nukkad-Record" in kept.headers


async def test_what_cannot_be_billed_is_not_kept(
    caller: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Draft) -> NoReturn:
        raise LedgerUnavailable("the disk is full")

    await put(caller)
    before = (await box.search.load("faq"))[1]
    with monkeypatch.context() as patched:
        patched.setattr(box.ledger, "append", full)
        for refused in (
            await caller.put("/v1/collections/faq", json={**more("gift"), "model": EMBED_MODEL}),
            await caller.post("/v1/collections/faq/entries", json={"entries": [{**ENTRIES[0], "answer": "नौ बजे"}]}),
            await put(caller, "new"),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert [each.name for each in await box.search.all()] == ["faq"]
    assert [each.entry for each in (await box.search.load("faq"))[1]] == [each.entry for each in before]
    assert "X-Nukkad-Record" in (await caller.post("/v1/collections/faq/entries", json=more("gift"))).headers


async def test_an_upload_cancelled_while_it_is_kept_is_neither_kept_nor_billed(
    caller: httpx.AsyncClient, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping, go_on = threading.Event(), threading.Event()
    real = Collections.replace

    def held(store: Collections, name: str, model: str, stored: Iterable[Stored]) -> Summary:
        keeping.set()
        go_on.wait(60)
        return real(store, name, model, stored)

    monkeypatch.setattr(Collections, "replace", held)
    request_id = str(uuid4())
    upload = asyncio.create_task(
        caller.put("/v1/collections/faq", json={"entries": ENTRIES}, headers={"X-Request-Id": request_id})
    )
    await asyncio.to_thread(keeping.wait, 60)
    assert (await caller.post(f"/v1/requests/{request_id}/cancel")).status_code == 202
    go_on.set()
    assert (await upload).status_code == 499
    assert await box.search.all() == ()
    assert box.ledger.head().seq == 0


async def test_a_sheet_is_taken_as_it_is(caller: httpx.AsyncClient) -> None:
    made = await caller.put("/v1/collections/sheet", content=SHEET, headers=CSV)
    assert made.status_code == 200, made.text
    added = await caller.post("/v1/collections/sheet/entries", content=SHEET.replace(b"water", b"can"), headers=CSV)
    assert added.json()["entries"] == 2
    listed = (await caller.get("/v1/collections/sheet/entries")).json()["entries"]
    assert [entry["id"] for entry in listed] == ["water", "can"]
    assert listed[0]["language"] is None


async def test_collections_are_listed_changed_and_deleted(caller: httpx.AsyncClient) -> None:
    await put(caller)
    assert [each["name"] for each in (await caller.get("/v1/collections")).json()["collections"]] == ["faq"]
    more = {"entries": [{"id": "gift", "question": "Gift wrap?", "answer": "Yes"}]}
    assert (await caller.post("/v1/collections/faq/entries", json=more)).json()["entries"] == 3
    assert (await caller.delete("/v1/collections/faq/entries/hours")).json()["entries"] == 2
    assert (await caller.get("/v1/collections/faq")).json()["revision"] == 3
    assert (await caller.delete("/v1/collections/faq")).status_code == 204
    assert (await caller.get("/v1/collections/faq")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/v1/tasks/search", {"collection": "none", "query": "x"}, 404, None),
        ("POST", "/v1/tasks/search", {"collection": "faq"}, 400, "query"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": ""}, 400, "query"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": " \n"}, 400, "query"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": "x" * 2001}, 400, "query"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": "w " * 400}, 400, "query"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": "x", "limit": 0}, 400, "limit"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": "x", "limit": "5"}, 400, "limit"),
        ("POST", "/v1/tasks/search", {"collection": "faq", "query": "x", "model": "y"}, 400, "model"),
        ("POST", "/v1/tasks/search", {"collection": "../x", "query": "x"}, 400, "collection"),
        ("PUT", "/v1/collections/Faq", {"entries": ENTRIES}, 400, "name"),
        ("PUT", "/v1/collections/new", {"entries": []}, 400, "entries"),
        ("PUT", "/v1/collections/new", {"entries": [ENTRIES[0], ENTRIES[0]]}, 400, "entries[1].id"),
        ("PUT", "/v1/collections/new", {"entries": [{**ENTRIES[0], "price": 5}]}, 400, "entries[0].price"),
        ("PUT", "/v1/collections/new", {"entries": [{**ENTRIES[0], "id": "a b"}]}, 400, "entries[0].id"),
        ("PUT", "/v1/collections/new", {"entries": ENTRIES, "model": CHAT_MODEL}, 404, "model"),
        ("PUT", "/v1/collections/new", {"entries": [{**ENTRIES[0], "answer": "w " * 400}]}, 400, None),
        ("POST", "/v1/collections/none/entries", {"entries": ENTRIES}, 404, None),
        ("DELETE", "/v1/collections/none", None, 404, None),
        ("DELETE", "/v1/collections/faq/entries/none", None, 404, None),
        ("GET", "/v1/collections/none/entries", None, 404, None),
    ],
)
async def test_what_is_refused_names_the_field_and_is_free(
    caller: httpx.AsyncClient, box: Box, method: str, path: str, body: object, status: int, param: str | None
) -> None:
    await put(caller)
    refused = await caller.request(method, path, json=body)
    assert refused.status_code == status, refused.text
    assert refused.json()["error"]["param"] == param
    assert box.ledger.head().seq == 1
    assert [each["name"] for each in (await caller.get("/v1/collections")).json()["collections"]] == ["faq"]


async def test_a_bad_sheet_is_refused_by_row_and_column(caller: httpx.AsyncClient, box: Box) -> None:
    refused = await caller.put("/v1/collections/faq", content=b"id,question,answer\na,,c\n", headers=CSV)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "row 2, column question"
    assert box.ledger.head().seq == 0


async def test_nothing_goes_without_a_key(caller: httpx.AsyncClient) -> None:
    caller.headers.pop("Authorization")
    for method, path in (("POST", "/v1/tasks/search"), ("GET", "/v1/collections"), ("PUT", "/v1/collections/faq")):
        assert (await caller.request(method, path)).status_code == 401
