"""The edge: an answer for every failure, an id on every answer, and nothing of a caller's text in a log or a metric."""

import logging
from uuid import UUID, uuid4

import httpx
import pytest

from appliance.box import Box
from tests.support.box import Street
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL

CANARY = "कैनरी-4711"


async def test_an_unexpected_failure_is_500_and_tells_nothing_of_the_request(
    caller: httpx.AsyncClient, box: Box, street: Street, caplog: pytest.LogCaptureFixture
) -> None:
    street.engine.failure = ValueError(f"cannot parse {CANARY}")  # type: ignore[assignment]
    request_id = str(uuid4())
    caplog.set_level(logging.DEBUG)
    answer = await caller.post(
        "/v1/embeddings", json={"model": EMBED_MODEL, "input": CANARY}, headers={"X-Request-Id": request_id}
    )
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.headers["X-Request-Id"] == request_id
    assert f"request {request_id} failed: ValueError at" in caplog.text
    assert CANARY not in caplog.text
    assert CANARY not in answer.text
    assert box.ledger.head().seq == 0
    assert box.meter.credit().reserved == 0  # type: ignore[union-attr]


async def test_no_text_of_a_caller_reaches_logs_metrics_or_files(
    caller: httpx.AsyncClient, street: Street, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": CANARY}]}
    for path, body in (
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/chat/completions", {**chat, "tools": CANARY}),
        ("/v1/embeddings", {"model": EMBED_MODEL, "input": CANARY}),
        (f"/v1/{CANARY}", {"model": CANARY}),
        ("/v1/embeddings", {"model": CANARY, "input": CANARY}),
    ):
        await caller.post(path, json=body)
    metrics = (await caller.get("/metrics")).text
    assert 'nukkad_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0' in metrics
    assert 'route="(none)",status="404"' in metrics
    kept = b"".join(path.read_bytes() for path in street.folder.rglob("*") if path.is_file())
    logged = [record for record in caplog.records if not record.name.startswith("httpx")]  # The test's own client.
    assert logged
    assert CANARY not in metrics
    assert CANARY.encode() not in kept
    assert not any(CANARY in record.getMessage() for record in logged)


async def test_every_answer_carries_an_id(caller: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/v1/models", "/nowhere"):
        assert UUID((await caller.get(path)).headers["X-Request-Id"]).version == 4


async def test_unknown_routes_and_methods_have_the_one_shape(caller: httpx.AsyncClient) -> None:
    missing, wrong = await caller.get("/v1/nowhere"), await caller.get("/v1/embeddings")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["Allow"] == "POST"


async def test_methods_that_nobody_knows_share_one_label(caller: httpx.AsyncClient) -> None:
    for number in range(20):
        await caller.request(f"M{number}", "/v1/models")
    metrics = (await caller.get("/metrics")).text
    assert 'method="other"' in metrics
    assert 'method="M1"' not in metrics
