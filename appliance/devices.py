"""What this machine could run models on, and what the box's packages run on: for `nukkad devices`."""

from dataclasses import asdict
from typing import Any

from appliance import state
from appliance.admin import Admin
from appliance.engine.environments import BOX, folder_python, installed, lockable
from appliance.engine.hardware import find_accelerators, find_nodes, read_processor
from appliance.engine.placement import read_placement
from appliance.engine.probe import Question, ask
from appliance.engine.providers import PROVIDERS, Provider
from appliance.settings import Settings

Answers = dict[str, dict[str, Any]]


def describe_devices(settings: Settings) -> dict[str, Any]:
    """JSON-ready. Where no box runs that can say what serves, every package is loaded where the settings put it."""
    held = state.is_held(settings.state)
    chosen = read_placement(settings.provider).environment or BOX
    answers = {
        name: ask(
            folder_python(settings.engines, name),
            Question(str(settings.store), settings.engine, () if held or name != chosen else (settings.provider,)),
        )
        for name in {BOX: None, **dict.fromkeys(installed(settings.engines))}
    }
    accelerators = find_accelerators()
    kinds = {"CPU", *(each.kind for each in accelerators)}
    packages = [row for answer in answers.values() for row in answer.pop("packages")]
    return {
        "processor": asdict(read_processor()),
        "accelerators": [asdict(each) for each in accelerators],
        "device_files": list(find_nodes()),
        "setting": settings.provider,
        "environments": answers,
        "providers": [_shown(provider, answers, kinds) for provider in PROVIDERS],
        "packages": _serving(Admin(settings.state).get("/status")) if held else packages,
    }


def _shown(provider: Provider, answers: Answers, kinds: set[str]) -> dict[str, Any]:
    """`state`: "offered" where a session may be opened on it, else what is missing. `kinds` of devices are there."""
    environment = provider.environment or BOX
    answer = answers.get(environment)
    if answer is None:
        state_now = "installable" if environment in lockable() else "not installed"
    elif provider.plug_in is None and provider.execution not in answer["providers"]:
        state_now = "not in this build"
    elif provider.plug_in is None:
        state_now = "offered" if not provider.device or provider.device in kinds else "sees no device"
    else:
        seen = any(device["provider"] == provider.execution for device in answer["devices"])
        state_now = "offered" if seen else "sees no device"
    return {"name": provider.name, "environment": environment, "families": list(provider.families), "state": state_now}


def _serving(status: dict[str, Any]) -> list[dict[str, Any]]:
    """What a running box says of its packages, in the probe's words."""
    serving = [
        {"name": each["name"], "fault": None, **{what: each[what] for what in ("provider", "lane", "cpu_nodes")}}
        for each in status["models"]
    ]
    aside = [
        {"name": each["model"], "provider": None, "lane": None, "cpu_nodes": None, "fault": each["reason"]}
        for each in status["engine"]["set_aside"]
    ]
    return serving + aside
