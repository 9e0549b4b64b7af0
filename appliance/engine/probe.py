"""Asking an engine environment what it offers and whether the box's packages run there.

A process of its own answers, because builds of ONNX Runtime exclude each other and because a provider that crashes must
take nothing with it.
"""

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.engine.process import child_environment
from appliance.engine.settings import EngineSettings

SECONDS_MAX = 600  # Loading every package, each lane tried; a driver that hangs must not hang the command.


@dataclass(frozen=True)
class Question:
    """Every serving package of `store` is tried on each of `placements`; with none of them, nothing is loaded."""

    store: str
    settings: EngineSettings
    placements: tuple[str, ...]


def ask(python: Path, question: Question) -> dict[str, Any]:
    """`onnxruntime`, `providers`, `devices`, `packages`, and `fault`: None, or why there is no answer."""
    nothing: dict[str, Any] = {"onnxruntime": None, "providers": [], "devices": [], "packages": []}
    command = [str(python), "-P", "-m", "appliance.engine.probe_child"]
    try:
        done = subprocess.run(  # noqa: S603 - every word of the command is our own
            command,
            check=False,
            input=json.dumps(asdict(question)).encode(),
            capture_output=True,
            timeout=SECONDS_MAX,
            env=child_environment(question.settings.threads),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {**nothing, "fault": str(error)}
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return {**nothing, "fault": f"it ended with {done.returncode}: {''.join(last)}"}
    return {**json.loads(done.stdout.splitlines()[-1]), "fault": None}
