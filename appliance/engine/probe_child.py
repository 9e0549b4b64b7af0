"""The probe's own process: `python -m appliance.engine.probe_child`, a `Question` on standard input, JSON on standard
output. Started by `probe.ask` and by nobody else.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime as ort
from pydantic import TypeAdapter

from appliance.engine.probe import Question
from appliance.engine.providers import PROVIDERS, ProviderError
from appliance.engine.served import load
from appliance.engine.session import plugged_in
from appliance.engine.tokens import Tokenizers
from models.errors import PackageError
from models.store import Store


def _answer(question: Question) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "faults": _plug_in(),
        "devices": [
            {"provider": each.ep_name, "kind": each.device.type.name, "vendor": each.device.vendor}
            for each in ort.get_ep_devices()
        ],
        "packages": [row for placement in question.placements for row in _try_all(question, placement)],
    }


def _plug_in() -> list[str]:
    """Register the plug-ins that are installed here, so that the devices they see are listed; what went wrong."""
    faults = []
    for provider in PROVIDERS:
        if provider.plug_in and importlib.util.find_spec(provider.plug_in):
            try:
                plugged_in(provider)
            except (ProviderError, RuntimeError) as error:
                faults.append(str(error))
    return faults


def _try_all(question: Question, placement: str) -> list[dict[str, Any]]:
    store, rows = Store(Path(question.store)), []
    for name in store.names():
        row: dict[str, Any] = {"name": name, "provider": placement, "lane": None, "cpu_nodes": None, "fault": None}
        try:
            package = store.current(name)
            info = load(package, replace(question.settings, provider=placement), Tokenizers()).info
        except PackageError as error:
            row["fault"] = str(error)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one package, the others are tried
            row["fault"] = f"{type(error).__name__}: {error}"
        else:
            row |= {"provider": info.provider, "lane": info.lane, "cpu_nodes": info.cpu_nodes}
        rows.append(row)
    return rows


if __name__ == "__main__":
    print(json.dumps(_answer(TypeAdapter(Question).validate_json(sys.stdin.buffer.read()))))
