"""Reads a safetensors file: names, shapes and numbers, every place checked before it is read."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantize.sources.checkpoint import Floats, SourceError

_HEADER_BYTES_MAX = 100 << 20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_NUMBERS = "position_ids"  # 0, 1, 2 …: older versions saved them beside the weights


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
