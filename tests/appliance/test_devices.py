import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from appliance import devices, state, tables
from appliance.admin import Admin
from appliance.devices import describe_devices
from appliance.engine.probe import Question
from appliance.settings import Settings

SETTINGS = Settings(state=Path("/nowhere"))


def answering(monkeypatch: pytest.MonkeyPatch, **answer: Any) -> list[Question]:
    asked = []

    def ask(_python: Path, question: Question) -> dict[str, Any]:
        asked.append(question)
        return {
            "onnxruntime": "1.2.3",
            "providers": ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
            "devices": [],
            "packages": [
                {"name": "e5", "provider": placement, "lane": "int8", "cpu_nodes": 13, "fault": None}
                for placement in question.placements
            ],
            "fault": None,
            **answer,
        }

    monkeypatch.setattr(devices, "ask", ask)
    return asked


def test_packages_are_tried_where_the_setting_puts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch)
    monkeypatch.setattr(devices, "installed", lambda _: ("openvino",))
    settings = replace(SETTINGS, provider="OpenVINOExecutionProvider:CPU")
    told = describe_devices(settings)
    assert [question.placements for question in asked] == [(), ("OpenVINOExecutionProvider:CPU",)]
    assert [row["name"] for row in told["packages"]] == ["e5"]
    states = {each["name"]: each["state"] for each in told["providers"]}
    assert states["OpenVINOExecutionProvider:CPU"] == states["CPUExecutionProvider"] == "offered"
    assert states["CUDAExecutionProvider"] == "installable"
    assert states["VitisAIExecutionProvider"] == "not installed"
    assert states["CoreMLExecutionProvider"] == "not in this build"
    assert json.loads(json.dumps(told))["packages"] == told["packages"]


def test_a_running_box_is_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch)
    serving = {"name": "e5", "provider": "CPUExecutionProvider", "lane": "int8", "cpu_nodes": 0, "digest": "00"}
    status = {"models": [serving], "engine": {"set_aside": [{"model": "chat", "reason": "too large"}]}}
    monkeypatch.setattr(state, "is_held", lambda _: True)
    monkeypatch.setattr(Admin, "get", lambda _self, _path: status)
    told = describe_devices(SETTINGS)
    assert [question.placements for question in asked] == [()]
    assert [(row["name"], row["fault"]) for row in told["packages"]] == [("e5", None), ("chat", "too large")]


def test_the_table_tells_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, faults=["a plug-in sees no device"])
    printed = StringIO()
    tables.devices(Console(file=printed, width=200), describe_devices(SETTINGS))
    for words in ("13 nodes on the processor", "ONNX Runtime 1.2.3", "a plug-in sees no device", "installable"):
        assert words in printed.getvalue()
