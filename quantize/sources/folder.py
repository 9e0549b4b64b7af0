"""Reads a local folder as Hugging Face lays it out: config.json, *.safetensors, tokenizer.json, a chat template."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.sources.checkpoint import Checkpoint, Floats, SourceError, Tensor

_HEADER_BYTES_MAX = 100 << 20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_BASE = "bert."  # Some checkpoints put the encoder under its class's name.
_NUMBERS = "position_ids"  # 0, 1, 2 …: older versions saved them beside the weights


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. Pickled weights (.bin, .pt) are not read. Raises SourceError."""
    config = _read_json(folder / "config.json")
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise SourceError(f"{folder}: no *.safetensors; save the weights in that form (pickled ones are never opened)")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        for name, values in read_safetensors(path):
            tensors[name.removeprefix(_BASE)] = values
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise SourceError(f"{folder}: no tokenizer.json; save the tokenizer in its fast form")
    return Checkpoint(config, tensors, tokenizer.read_text(encoding="utf-8"), _chat_template(folder))


def read_safetensors(path: Path) -> Iterator[tuple[str, Floats]]:
    """Names and float32 values of a safetensors file, all but its position_ids, which are no weights.

    Every place is checked against the file's length.
    """
    if path.stat().st_size < 8:
        raise SourceError(f"{path.name}: too short for a safetensors file")
    data = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    if length > min(_HEADER_BYTES_MAX, data.size - 8):
        raise SourceError(f"{path.name}: its header claims {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
    except ValueError:
        raise SourceError(f"{path.name}: its header is not JSON") from None
    body = data[8 + length :]
    for name, entry in sorted(header.items()):
        if name != "__metadata__" and not name.endswith(_NUMBERS):
            yield name, _values(path.name, name, entry, body)


def _values(file: str, name: str, entry: dict[str, Any], body: NDArray[np.uint8]) -> Floats:
    kind, shape = entry["dtype"], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if kind not in _WIDTHS:
        raise SourceError(f"{file}: tensor {name!r} has type {kind}; supported: {', '.join(_WIDTHS)}")
    if not 0 <= start <= end <= body.size or end - start != _WIDTHS[kind] * int(np.prod(shape, dtype=np.int64)):
        raise SourceError(f"{file}: tensor {name!r} does not lie within the file as its shape says")
    raw = np.array(body[start:end])
    if kind == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return raw.view(np.float16 if kind == "F16" else np.float32).astype(np.float32).reshape(shape)


def _chat_template(folder: Path) -> str | None:
    """Newer checkpoints keep it in a file of its own, older ones in tokenizer_config.json."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = _read_json(settings).get("chat_template") if settings.is_file() else None
    if template is not None and not isinstance(template, str):
        raise SourceError(f"{settings}: chat_template holds several templates; keep the one to use as a plain string")
    return template


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path}: not there") from None
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path}: not a JSON object")
    return document
