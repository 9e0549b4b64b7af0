"""The first page over HTTP: open to whoever reaches the box under a known name, and without secrets."""

import httpx
import pytest

from appliance.box import Box


@pytest.fixture
def visitor(caller: httpx.AsyncClient) -> httpx.AsyncClient:
    """Without a key."""
    caller.headers.pop("Authorization")
    return caller


async def test_the_page_needs_no_key_and_shows_none(visitor: httpx.AsyncClient, box: Box) -> None:
    key, secret = box.keys.create("till")
    revoked, _ = box.keys.create("old phone")
    box.keys.revoke(revoked.id)
    page = await visitor.get("/")
    assert page.status_code == 200, page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert key.hint in page.text
    assert "till" in page.text
    assert "old phone" not in page.text
    figures = (await visitor.get("/console/status.json")).text
    for told in (page.text, figures):
        assert secret not in told
        assert box.admin_token not in told


@pytest.mark.parametrize(
    ("path", "accepted", "language"),
    [("/", "hi-IN", "hi"), ("/", "ta", "en"), ("/?lang=hi", "en", "hi"), ("/?lang=xx", "hi", "hi")],
)
async def test_languages(visitor: httpx.AsyncClient, path: str, accepted: str, language: str) -> None:
    page = await visitor.get(path, headers={"Accept-Language": accepted})
    assert page.headers["content-language"] == language
    assert ("आज" in page.text) == (language == "hi")


async def test_figures_follow_what_was_used(caller: httpx.AsyncClient) -> None:
    before = (await caller.get("/console/status.json?lang=en")).json()
    message = {"role": "user", "content": "नमस्ते"}
    answer = await caller.post("/v1/chat/completions", json={"model": "fake-chat", "messages": [message]})
    assert answer.status_code == 200, answer.text
    after = (await caller.get("/console/status.json?lang=en")).json()
    assert (before["live"]["calls"], after["live"]["calls"]) == ("0", "1")
    assert after["state"] == "ready"
    assert after["shape"] != before["shape"], "a first chat brings a line of its own"


async def test_a_foreign_name_is_refused(visitor: httpx.AsyncClient) -> None:
    for path in ("/", "/console/status.json", "/console/topup.svg", "/console/console.js"):
        refused = await visitor.get(path, headers={"Host": "evil.example"})
        assert refused.status_code == 403, path


async def test_the_browser_is_told_to_load_nothing_else(visitor: httpx.AsyncClient) -> None:
    for path, kind in (
        ("/", "text/html; charset=utf-8"),
        ("/console/console.css", "text/css; charset=utf-8"),
        ("/console/console.js", "text/javascript; charset=utf-8"),
        ("/console/icon.svg", "image/svg+xml"),
        ("/console/topup.svg", "image/svg+xml"),
    ):
        answer = await visitor.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_other_files_are_not_there(visitor: httpx.AsyncClient) -> None:
    for name in ("page.jinja", "view.py", "..%2fbox.py"):
        assert (await visitor.get(f"/console/{name}")).status_code == 404
