"""The operator's routes: status, keys, usage, sync, top-ups and packages of a running box."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import zxingcpp
from PIL import Image

from appliance.box import Box
from appliance.settings import Settings
from models.store import Store
from tests.support.box import Street
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL
from tests.support.tiny_models import install, write_embed


@pytest.fixture
async def operator(street: Street, box: Box) -> AsyncIterator[httpx.AsyncClient]:
    async with street.caller(box, box.admin_token) as client:
        yield client


async def test_status_tells_what_the_box_is_and_owes(
    operator: httpx.AsyncClient, caller: httpx.AsyncClient, box: Box
) -> None:
    await caller.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x" * 250})
    status = (await operator.get("/v1/admin/status")).json()
    assert status["device"] == box.identity.device.hex()
    assert status["enrolment"] == {"customer": "shop", "node_url": "http://127.0.0.1:1", "epoch": 1}
    assert status["credit"]["spent"] == "0.001"
    assert status["credit"]["left"] == "499.999"
    assert status["sync"]["records"] == 1
    assert status["engine"]["ready"] is True
    assert {model["name"] for model in status["models"]} == {CHAT_MODEL, EMBED_MODEL}
    assert status["today"] == {
        "requests": 1,
        "cost": "0.001",
        "meters": {"embedding": {"cost": "0.001", "units": {"requests": 1, "points_in": 250, "tokens_in": 3}}},
    }


async def test_keys_are_made_listed_and_revoked(operator: httpx.AsyncClient, street: Street, box: Box) -> None:
    made = (await operator.post("/v1/admin/keys", json={"name": "counter"})).json()
    assert (await operator.get("/v1/admin/keys")).json()["keys"] == [
        {"id": made["id"], "name": "counter", "hint": made["secret"][:9], "created": made["created"], "revoked": None}
    ]
    async with street.caller(box, made["secret"]) as caller:
        assert (await caller.get("/v1/models")).status_code == 200
        assert (await operator.delete(f"/v1/admin/keys/{made['id']}")).json()["revoked"] is not None
        assert (await caller.get("/v1/models")).status_code == 401
    for wrong in ("99", "x", "-1", "9" * 30):
        answer = await operator.delete(f"/v1/admin/keys/{wrong}")
        assert answer.status_code == 400
    assert (await operator.post("/v1/admin/keys", json={"name": " "})).status_code == 400


async def test_usage_is_by_key_and_each_key_sees_its_own(
    operator: httpx.AsyncClient, caller: httpx.AsyncClient, street: Street, box: Box
) -> None:
    await caller.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x" * 250})
    async with street.caller(box) as other:
        for _ in range(2):
            await other.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x" * 250})
        own = (await other.get("/v1/usage")).json()
    used = (await operator.get("/v1/admin/usage?days=1")).json()
    assert (used["requests"], used["cost"]) == (3, "0.003")
    assert [(key["id"], key["requests"]) for key in used["keys"]] == [(1, 1), (2, 2)]
    assert (own["requests"], own["cost"], own["meters"]["embedding"]["units"]["points_in"]) == (2, "0.002", 500)


async def test_sync_ships_everything_and_tells_the_balance(
    operator: httpx.AsyncClient, caller: httpx.AsyncClient, street: Street
) -> None:
    await caller.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x" * 250})
    answer = (await operator.post("/v1/admin/sync")).json()
    assert answer == {"billed": 1, "balance": "499.999", "lease": "499.999"}
    assert len(street.node.records) == 1


async def test_a_top_up_is_a_link_and_a_code_that_decodes_to_it(operator: httpx.AsyncClient) -> None:
    made = await operator.post("/v1/admin/topups", json={"amount_paise": 50_000})
    assert made.status_code == 201
    assert (made.json()["amount"], made.json()["status"]) == ("500.00", "open")
    assert made.json()["link"].startswith("upi://pay?")
    svg = await operator.get(f"/v1/admin/topups/{made.json()['reference']}/qr.svg")
    assert svg.headers["Content-Type"] == "image/svg+xml"
    assert svg.text.startswith("<svg")
    for paise in (0, 99, 10_000_001, "500", 1.5):
        assert (await operator.post("/v1/admin/topups", json={"amount_paise": paise})).status_code == 400
    assert (await operator.get("/v1/admin/topups/no-such%20one")).status_code == 400


def test_the_terminal_s_code_decodes_to_the_link() -> None:
    from appliance.topups import terminal

    link = "upi://pay?pa=shop@bank&pn=Nukkad&tr=NK32TSRMD4V7JY8Y78BNZA&am=500.00&cu=INR"
    assert decoded(terminal(link)) == link


async def test_packages_are_listed_and_refusals_name_the_fix(operator: httpx.AsyncClient) -> None:
    assert (await operator.get("/v1/admin/models")).json() == {"models": []}
    missing = await operator.post("/v1/admin/models/install", json={"path": "/nowhere"})
    assert missing.status_code == 400
    assert "/nowhere" in missing.json()["error"]["message"]
    unknown = await operator.post("/v1/admin/models/activate", json={"name": "x", "digest": "0" * 64})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_installed")
    assert (await operator.post("/v1/admin/models/rollback", json={"name": "x"})).status_code == 404


@pytest.mark.parametrize("path", ["a\0b", "x" * 4000])
async def test_a_path_that_cannot_be_one_is_refused(operator: httpx.AsyncClient, path: str) -> None:
    answer = await operator.post("/v1/admin/models/install", json={"path": path})
    assert answer.status_code == 400
    assert "/var/tmp" in answer.json()["error"]["message"]


async def test_a_package_that_the_engine_refuses_changes_nothing(
    operator: httpx.AsyncClient, street: Street, tmp_path: Path
) -> None:
    store = Settings(state=street.folder).store
    first, second = install(store, write_embed(tmp_path / "a"), write_embed(tmp_path / "b", seed=1))

    async def ask(verb: str, **body: str) -> httpx.Response:
        return await operator.post(f"/v1/admin/models/{verb}", json=body)

    def serving() -> list[bytes]:
        return [package.digest for package in Store(store).active()]

    pointer = store / "active" / "tiny-embed.json"
    stood = pointer.read_bytes()
    (third,) = install(tmp_path / "elsewhere", write_embed(tmp_path / "c", seed=2))
    Store(store, inspect=lambda _folder, _manifest: None).install(tmp_path / "c.layout")
    street.engine.refused = (("tiny-embed", "it is broken"),)
    for answer in (
        await ask("activate", name="tiny-embed", digest=first.digest.hex()),
        await ask("activate", name="tiny-embed", digest=third.digest.hex()),
        await ask("activate", name="tiny-embed", digest=second.digest.hex()),
        await ask("rollback", name="tiny-embed"),
    ):
        assert answer.status_code == 409
        assert "it is broken" in answer.json()["error"]["message"]
        assert serving() == [second.digest]
        assert pointer.read_bytes() == stood
    assert (await ask("remove", digest=third.digest.hex())).status_code == 200
    Store(store).deactivate("tiny-embed")
    assert (await ask("activate", name="tiny-embed", digest=first.digest.hex())).status_code == 409
    assert serving() == []
    street.engine.refused = ()
    assert (await ask("activate", name="tiny-embed", digest=first.digest.hex())).status_code == 200
    assert (await ask("remove", digest=first.digest.hex())).status_code == 409
    assert (await ask("deactivate", name="tiny-embed")).json() == {"name": "tiny-embed"}
    assert serving() == []
    assert (await ask("remove", digest=first.digest.hex())).status_code == 200
    assert Store(store).installed() == ([second], [])


async def test_a_package_that_the_engine_dies_of_changes_nothing(
    operator: httpx.AsyncClient, street: Street, tmp_path: Path
) -> None:
    store = Settings(state=street.folder).store
    first, second = install(store, write_embed(tmp_path / "a"), write_embed(tmp_path / "b", seed=1))
    street.engine.dies_of_reload = True
    for verb, more in (("activate", {"digest": first.digest.hex()}), ("rollback", {})):
        answer = await operator.post(f"/v1/admin/models/{verb}", json={"name": "tiny-embed", **more})
        assert answer.status_code == 409
        assert "died while it was loading" in answer.json()["error"]["message"]
        assert [package.digest for package in Store(store).active()] == [second.digest]


async def test_a_change_while_the_engine_starts_stands(
    operator: httpx.AsyncClient, street: Street, tmp_path: Path
) -> None:
    """The engine that starts loads what is active: a way out of a package that crashes it again and again."""
    store = Settings(state=street.folder).store
    first, _ = install(store, write_embed(tmp_path / "a"), write_embed(tmp_path / "b", seed=1))
    street.engine.starting = True
    answer = await operator.post("/v1/admin/models/rollback", json={"name": "tiny-embed"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    assert [package.digest for package in Store(store).active()] == [first.digest]


async def test_a_box_without_a_node_refuses_sync_and_top_ups(tmp_path, operator: httpx.AsyncClient) -> None:  # type: ignore[no-untyped-def]
    street = Street(tmp_path / "other")
    async with street.box() as box, street.caller(box, box.admin_token) as alone:
        for path, body in (("/sync", None), ("/topups", {"amount_paise": 500})):
            answer = await alone.post(f"/v1/admin{path}", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_enrolled")


def decoded(half_blocks: str) -> str:
    """What a camera reads from a terminal that shows these half blocks on a dark ground."""
    shades = {"█": (255, 255), "▀": (255, 0), "▄": (0, 255), " ": (0, 0)}
    lines = [line for line in half_blocks.splitlines() if line]
    width = max(map(len, lines))
    image = Image.new("L", (width, 2 * len(lines)))
    for row, line in enumerate(lines):
        for column, block in enumerate(line):
            for half, shade in enumerate(shades[block]):
                image.putpixel((column, 2 * row + half), shade)
    (found,) = zxingcpp.read_barcodes(image.resize((8 * width, 16 * len(lines)), Image.Resampling.NEAREST))
    return str(found.text)
