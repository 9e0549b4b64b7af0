"""The container that GGUF is: metadata and tensors, little-endian, versions 2 and 3.

The `gguf` package reads it too, but takes ten seconds over a vocabulary of 262,000; its kinds of blocks are used here.
"""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from quantize.sources.checkpoint import SourceError

_TEXT, _LIST = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)
_DIMENSIONS_MAX = 4
_ALIGNMENT = 32  # where `general.alignment` does not say


@dataclass(frozen=True)
class Stored:
    """A tensor as the file has it: `raw` are its bytes, in the last dimension those of one row."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    raw: NDArray[np.uint8]


@dataclass(frozen=True)
class GgufFile:
    """Tensors stay in the file, which must outlive this."""

    fields: dict[str, Any]
    tensors: dict[str, Stored]


def open_gguf(path: Path) -> GgufFile:
    """Every place is checked against the file's length. Raises SourceError naming the file."""
    try:
        return _read(np.memmap(path, np.uint8, "r"))
    except (_Broken, struct.error, UnicodeDecodeError, ValueError) as error:
        raise SourceError(f"{path.name}: not a whole GGUF file ({error})") from None


class _Broken(Exception):
    """What is wrong with a file."""


def _read(data: NDArray[np.uint8]) -> GgufFile:
    cursor = _Cursor(data)
    magic, version = cursor.take("4sI")
    if magic != b"GGUF" or version not in _VERSIONS:
        raise _Broken(f"it starts with {magic!r}, version {version}")
    tensor_count, field_count = cursor.take("QQ")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name, (kind,) = cursor.text(), cursor.take("I")
        fields[name] = cursor.value(kind)
    places: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensor_count):
        name, (dimensions,) = cursor.text(), cursor.take("I")
        if dimensions > _DIMENSIONS_MAX or name in places:
            raise _Broken(f"tensor {name!r} has {dimensions} dimensions or is there twice")
        shape = cursor.take(f"{dimensions}Q")[::-1]
        places[name] = (shape, *cursor.take("IQ"))
    alignment = int(fields.get("general.alignment", _ALIGNMENT))
    if alignment < 1:
        raise _Broken(f"general.alignment is {alignment}")
    start = -(-cursor.at // alignment) * alignment
    stored = {name: _stored(data, name, shape, kind, start + at) for name, (shape, kind, at) in places.items()}
    return GgufFile(fields, stored)


def _stored(data: NDArray[np.uint8], name: str, shape: tuple[int, ...], number: int, at: int) -> Stored:
    kind = GGMLQuantizationType(number)
    if kind not in GGML_QUANT_SIZES:
        raise _Broken(f"tensor {name!r} is of the kind {kind.name}, whose size is not known")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    row, rest = (shape[-1], shape[:-1]) if shape else (1, ())
    size = prod(rest) * row // block * block_bytes
    if row % block or at + size > data.size:
        raise _Broken(f"tensor {name!r} does not lie within it")
    return Stored(kind, shape, data[at : at + size].reshape(*rest, row // block * block_bytes))


class _Cursor:
    """Reads fields one after another."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data.data
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        return str(self._bytes(length), "utf-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.take(_letter(kind))[0]
        inner, count = self.take("IQ")
        if inner == _TEXT:
            return [self.text() for _ in range(count)]
        numbers = np.dtype(_letter(inner)).newbyteorder("<")
        return np.frombuffer(self._bytes(count * numbers.itemsize), numbers).tolist()

    def _bytes(self, count: int) -> memoryview:
        if count > len(self._data) - self.at:
            raise _Broken(f"it ends early, at byte {self.at}")
        self.at += count
        return self._data[self.at - count : self.at]


def _letter(kind: int) -> str:
    if kind not in _SCALARS:
        raise _Broken(f"a field of the unknown type {kind}")
    return _SCALARS[kind]
