"""Ready means that a model serves; the figures are there; the routes describe themselves."""

from functools import partial

import httpx
import pytest

from appliance.engine.protocol import EngineHealth, ModelInfo
from sync.ledger import Ledger
from tests.support.box import Street
from tests.support.fake_engine import CHAT_MODEL, EMBED_MODEL
from tests.support.held_disk import HeldDisk


class Empty:
    """An engine that runs and serves nothing."""

    def __init__(self, ready: bool, set_aside: tuple[tuple[str, str], ...] = ()) -> None:
        self.state = EngineHealth(ready, 1, 0, 0, 0, 0, set_aside)

    async def health(self) -> EngineHealth:
        return self.state

    async def models(self) -> tuple[ModelInfo, ...]:
        return ()


async def test_ready_when_a_model_serves(caller: httpx.AsyncClient) -> None:
    assert (await caller.get("/healthz")).json() == {"status": "ok"}
    answer = await caller.get("/readyz")
    assert (answer.status_code, answer.json()["models"]) == (200, [CHAT_MODEL, EMBED_MODEL])


async def test_not_ready_tells_why(street: Street) -> None:
    for engine, reason in (
        (Empty(False), "the engine is starting"),
        (Empty(True), "nukkad models install"),
        (Empty(True, (("e5", "its self-test failed"),)), "e5 cannot be served: its self-test failed"),
    ):
        street.engine = engine  # type: ignore[assignment]
        async with street.box() as box, street.caller(box) as caller:
            answer = await caller.get("/readyz")
            assert answer.status_code == 503
            assert reason in answer.json()["reason"]
            assert (await caller.get("/healthz")).status_code == 200


async def test_not_ready_while_no_record_can_be_made(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.group_commit.PROBE_S", 0.01)
    disk = HeldDisk("health-full")
    monkeypatch.setattr("appliance.serve.Ledger", partial(Ledger, vfs=disk.name))
    chat = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "one two three"}], "stream": True}
    async with street.box() as box, street.caller(box) as caller:
        disk.full = True
        first = await caller.post("/v1/chat/completions", json=chat)
        assert first.status_code == 200 and '"ledger_unavailable"' in first.text  # The one that found it out.
        for _ in range(3):
            refused = await caller.post("/v1/chat/completions", json=chat)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ledger_unavailable")
        answer = await caller.get("/readyz")
        assert answer.status_code == 503
        assert "free some disk space" in answer.json()["reason"]
        disk.full = False
        while (await caller.get("/readyz")).status_code == 503:
            pass
        answer = await caller.post("/v1/chat/completions", json=chat)
        assert '"outcome":"completed"' in answer.text
        assert box.ledger.head().seq == 1


async def test_metrics_count_what_was_billed(caller: httpx.AsyncClient) -> None:
    await caller.post("/v1/embeddings", json={"model": EMBED_MODEL, "input": "x" * 250})
    metrics = (await caller.get("/metrics")).text
    for line in (
        'nukkad_units_total{meter="embedding",outcome="completed",unit="points_in"} 250.0',
        'nukkad_cost_micro_rupees_total{meter="embedding"} 1000.0',
        'nukkad_records{what="written"} 1.0',
        'nukkad_credit_micro_rupees{what="spent"} 1000.0',
        'nukkad_engine{what="ready"} 1.0',
        'gen_ai_server_request_duration_seconds_count{route="/v1/embeddings"} 1.0',
    ):
        assert line in metrics


async def test_the_openapi_document_knows_every_body(caller: httpx.AsyncClient) -> None:
    document = (await caller.get("/openapi.json")).json()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/admin/keys"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is False
        assert "$ref" not in str(schema)
