"""What the page tells first, and what its figures say."""

from typing import Any

import pytest

from appliance.console.view import KEYS_SHOWN, TopUp, View, view
from appliance.console.words import Words
from tests.console.status import NOW_MS, credit, status

EN = Words("en")


def seen(keys: int = 0, **changed: Any) -> View:
    return view(status(**changed), [(f"app {n}", f"nk_{n}") for n in range(keys)], NOW_MS, EN)


ENGINE = status()["engine"]


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "ready"),
        ({"credit": credit(left="0.00")}, "empty"),
        ({"credit": credit(left="0.00", expired=True)}, "expired"),
        ({"models": []}, "no_models"),
        ({"engine": {**ENGINE, "ready": False}, "models": []}, "starting"),
        ({"credit": None}, "alone"),
        ({"enrolment": None, "engine": {**ENGINE, "ready": False}}, "alone"),
    ],
)
def test_the_one_thing_to_tell_first(changed: dict[str, Any], state: str) -> None:
    found = seen(**changed)
    assert found.state == state
    assert found.live["state"] == EN(f"state_{state}")


def test_figures() -> None:
    found = seen()
    assert found.credit_share == 75
    assert found.live["left"] == "₹375.00"
    assert found.live["total"] == "of ₹500.00"
    assert found.live["until"] == "Works without a line until 1 Dec, 00:00"
    assert (found.live["calls"], found.live["cost"]) == ("1,234", "₹1.23")
    assert found.live["synced"] == "Last sync 10 min ago"
    assert found.live["billed"] == "10 of 12 calls billed"
    assert found.meters == (
        ("chat", "1,23,456 characters read, 7 written", "₹1.23"),
        ("search", "99 characters read", "under 1 paisa"),
    )
    assert found.live["chat_cost"] == "₹1.23"


def test_an_allowance_is_told_where_there_is_one() -> None:
    assert "allowance" not in seen().live
    assert seen(credit=credit(allowance="20.00")).live["allowance"].startswith("₹20.00 of it")


@pytest.mark.parametrize(
    ("records", "billed", "told"),
    [(0, 0, "No calls to bill yet"), (5, 5, "All 5 calls are billed"), (5, 4, "4 of 5 calls billed")],
)
def test_what_the_node_has_billed(records: int, billed: int, told: str) -> None:
    assert seen(sync={**status()["sync"], "records": records, "billed": billed}).live["billed"] == told


def test_the_link_is_read_for_the_payer() -> None:
    assert seen().topup == TopUp(credit()["topup"], "Sharma Store · shop@bank", "NK42", "₹500.00")
    assert seen(credit=credit(topup="upi://pay?pa=a@b&tr=X")).topup == TopUp("upi://pay?pa=a@b&tr=X", "a@b", "X", None)
    assert seen(credit=None).topup is None


def test_models_speak_under_their_own_names() -> None:
    chat, vectors = seen().models
    assert (chat.name, chat.tasks) == ("tiny-chat", "chat · text completion")
    assert vectors.languages == ("हिन्दी", "தமிழ்", "xx")
    assert (seen().chat_model, seen().vector_model) == ("tiny-chat", "tiny-e5")


def test_only_a_few_keys_are_shown() -> None:
    found = seen(keys=KEYS_SHOWN + 2)
    assert (len(found.keys), found.keys_more) == (KEYS_SHOWN, 2)


def test_what_could_not_be_loaded_and_a_failed_sync_are_told() -> None:
    found = seen(
        engine={**ENGINE, "set_aside": [{"model": "broken", "reason": "self-test"}]},
        sync={**status()["sync"], "failure": "unreachable"},
    )
    assert found.set_aside == ("broken could not be loaded",)
    assert found.sync_failed


def test_the_shape_changes_with_what_a_script_cannot_renew_and_with_nothing_else() -> None:
    shape = seen().shape
    assert seen(today={**status()["today"], "requests": 9}).shape == shape
    assert seen(credit=credit(left="1.00")).shape == shape
    assert seen(keys=1).shape != shape
    assert seen(models=[]).shape != shape
    assert seen(credit=credit(topup="upi://pay?pa=a@b&tr=X")).shape != shape
    assert seen(today={"requests": 0, "cost": "0.00", "meters": {}}).shape != shape
