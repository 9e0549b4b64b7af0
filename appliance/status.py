"""The state of a box in one object, for the status command and the console."""

from datetime import UTC, datetime
from typing import Any

from appliance.box import Box
from appliance.usage import summed
from sync.clock import day_in_india
from sync.price import rupees


async def describe(box: Box) -> dict[str, Any]:
    """JSON-ready; times in ISO 8601 UTC, money in rupees as exact decimal strings. Raises LedgerUnavailable."""
    health = await box.engine.health()
    models = await box.engine.models() if health.ready else ()
    today = day_in_india(box.clock.wall_ms())
    return {
        "device": box.identity.device.hex(),
        "started": _time(box.started_ms),
        "enrolment": _enrolment(box),
        "credit": _credit(box),
        "sync": _sync(box),
        "engine": {
            "ready": health.ready,
            "restarts": health.restarts,
            "queued": health.queued,
            "running": health.running,
            "slots": health.slots,
            "set_aside": [{"model": name, "reason": reason} for name, reason in health.set_aside],
        },
        "models": [
            {
                "name": model.name,
                "digest": model.digest.hex(),
                "tasks": list(model.tasks),
                "languages": list(model.languages),
                "lane": model.lane,
                "provider": model.provider,
                "cpu_nodes": model.cpu_nodes,
                "context_tokens": model.context_tokens,
            }
            for model in models
        ],
        "today": summed(box.ledger.totals(today, today)),
    }


def _enrolment(box: Box) -> dict[str, Any] | None:
    enrolment = box.identity.enrolment
    if enrolment is None:
        return None
    return {"customer": enrolment.customer, "node_url": enrolment.node_url, "epoch": enrolment.epoch}


def _credit(box: Box) -> dict[str, Any] | None:
    credit = box.meter.credit()
    if credit is None:
        return None
    return {
        "granted": rupees(credit.granted),
        "allowance": rupees(credit.allowance),
        "spent": rupees(credit.spent),
        "left": rupees(credit.left),
        "expires": _time(credit.expires_ms),
        "expired": credit.expired,
        "topup": credit.topup,
    }


def _sync(box: Box) -> dict[str, Any]:
    if box.worker is None:
        return {"records": box.ledger.head().seq, "billed": 0, "last": None, "failure": None}
    status = box.worker.status()
    last = _time(status.synced_ms) if status.synced_ms is not None else None
    return {"records": status.head, "billed": status.acked, "last": last, "failure": status.failure}


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="seconds")
