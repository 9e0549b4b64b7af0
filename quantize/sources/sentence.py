"""What sentence-transformers adds to a folder of Hugging Face's: how a text's vector comes from its tokens' values."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantize.sources.checkpoint import Checkpoint, SourceError, Tensor
from quantize.sources.safetensors import read_safetensors

_MODULES = "modules.json"
_MODES = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh"}


def add_sentence_modules(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """With the folder's pooling and its dense matrix, under the names of quantize.graphs.heads. Raises SourceError."""
    path = folder / _MODULES
    if not path.is_file():
        return checkpoint
    config, tensors = dict(checkpoint.config), dict(checkpoint.tensors)
    for module in json.loads(path.read_text(encoding="utf-8")):
        kind, place = str(module["type"]).rpartition(".")[2], folder / str(module["path"])
        match kind:
            case "Transformer" | "Normalize":  # A vector always has unit length here.
                pass
            case "Pooling":
                config["sentence_pooling"] = _read_pooling(place / "config.json")
            case "Dense":
                config["sentence_dense_activation"], dense = _read_dense(place)
                tensors |= dense
            case _:
                raise SourceError(f"{_MODULES} has a module {kind!r}; known: Transformer, Pooling, Dense, Normalize")
    return replace(checkpoint, config=config, tensors=tensors)


def _read_pooling(path: Path) -> str:
    settings: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    on = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    named = settings.get("pooling_mode")
    found = {named} if isinstance(named, str) else {_MODES.get(name, name) for name in on}
    if len(found) != 1 or not found <= {"cls", "mean"}:
        raise SourceError(
            f"{path.parent.name}/config.json asks for {', '.join(sorted(found))}; one of cls, mean is known"
        )
    return str(found.pop())


def _read_dense(folder: Path) -> tuple[str | None, dict[str, Tensor]]:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    activation = str(settings.get("activation_function", "Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise SourceError(f"{folder.name}/config.json: activation_function is {activation!r}; known: {known}")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise SourceError(f"{path}: not there; save the weights in that form (pickled ones are never opened)")
    return _ACTIVATIONS[activation], {f"sentence_dense.{name}": values for name, values in read_safetensors(path)}
