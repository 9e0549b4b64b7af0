"""The status of a box, as appliance.status gives it, to be changed by tests."""

from typing import Any

NOW_MS = 1_795_502_400_000  # 24 Nov 2026, 06:40 UTC


def status(**changed: Any) -> dict[str, Any]:
    return {
        "device": "ab" * 16,
        "started": "2026-11-24T06:00:00+00:00",
        "enrolment": {"customer": "shop", "node_url": "http://127.0.0.1:8471", "epoch": 1},
        "credit": credit(),
        "sync": {"records": 12, "billed": 10, "last": "2026-11-24T06:30:00+00:00", "failure": None},
        "engine": {"ready": True, "restarts": 0, "queued": 0, "running": 0, "slots": 8, "set_aside": []},
        "models": [model("tiny-chat", "chat", "completion"), model("tiny-e5", "embedding")],
        "today": {
            "requests": 1234,
            "cost": "1.2345",
            "meters": {
                "chat": {"cost": "1.2345", "units": {"requests": 1200, "points_in": 123456, "points_out": 7}},
                "search": {"cost": "0.00004", "units": {"requests": 34, "points_in": 99}},
            },
        },
        **changed,
    }


def credit(**changed: Any) -> dict[str, Any]:
    link = "upi://pay?pa=shop@bank&pn=Sharma%20Store&tr=NK42&am=500.00&cu=INR"
    return {
        "granted": "500.00",
        "allowance": "0.00",
        "spent": "125.00",
        "left": "375.00",
        "expires": "2026-11-30T18:30:00+00:00",
        "expired": False,
        "topup": link,
        **changed,
    }


def model(name: str, *tasks: str) -> dict[str, Any]:
    return {"name": name, "digest": "00" * 32, "tasks": list(tasks), "languages": ["hi", "ta", "xx"], "lane": "q8"}
