"""The deterministic subset of CBOR (RFC 8949 §4.2) that records, segments and receipts are made of.

Integers, byte strings, text, arrays, and maps from small integers; shortest heads, ascending keys, definite lengths.
One value has exactly one encoding, and the decoder accepts no other, so a hash of the bytes is a hash of the value.
It is written out here because a general decoder also runs the tags, floats and big numbers a stranger sends.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Value: TypeAlias = "int | bytes | str | Sequence[Value] | Mapping[int, Value]"

DEPTH_MAX = 4
INT_MAX = 2**63 - 1  # what SQLite and PostgreSQL hold
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP = range(6)


def encode(value: Value) -> bytes:
    """Raises TypeError or ValueError for what is outside the subset, OverflowError for an integer beyond 64 bits."""
    out = bytearray()
    _write(out, value)
    return bytes(out)


def _write(out: bytearray, value: Value) -> None:
    if isinstance(value, bool):
        raise TypeError("bool is outside the subset")
    if isinstance(value, int):
        _write_head(out, *((_UINT, value) if value >= 0 else (_NEGATIVE, -1 - value)))
    elif isinstance(value, bytes):
        _write_head(out, _BYTES, len(value))
        out += value
    elif isinstance(value, str):
        text = value.encode()
        _write_head(out, _TEXT, len(text))
        out += text
    elif isinstance(value, tuple | list):
        _write_head(out, _ARRAY, len(value))
        for item in value:
            _write(out, item)
    elif isinstance(value, Mapping):
        _write_head(out, _MAP, len(value))
        for key in sorted(value):
            _write_head(out, _UINT, key)
            _write(out, value[key])
    else:
        raise TypeError(f"{type(value).__name__} is outside the subset")


def _write_head(out: bytearray, major: int, argument: int) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
        return
    power = next((power for power in range(3) if argument >> (8 << power) == 0), 3)
    out.append(major << 5 | 24 + power)
    out += argument.to_bytes(1 << power, "big")


def decode(data: bytes) -> Value:
    """Raises ValueError unless `data` is exactly one value in its only encoding."""
    value, end = _read(data, 0, DEPTH_MAX)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes after the end")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    major, argument, at = _read_head(data, at)
    if major == _UINT:
        return argument, at
    if major == _NEGATIVE:
        return -1 - argument, at
    if major in (_BYTES, _TEXT):
        end = at + argument
        if end > len(data):
            raise ValueError("cut short inside a string")
        return (data[at:end] if major == _BYTES else data[at:end].decode()), end
    if major not in (_ARRAY, _MAP) or depth == 0:
        raise ValueError(f"not canonical at byte {at}: a tag, float or simple value, or nested too deep")
    if major == _ARRAY:
        items: list[Value] = []
        for _ in range(argument):
            item, at = _read(data, at, depth - 1)
            items.append(item)
        return tuple(items), at
    entries: dict[int, Value] = {}
    last = -1
    for _ in range(argument):
        major, key, at = _read_head(data, at)
        if major != _UINT or key <= last:
            raise ValueError(f"not canonical at byte {at}: map keys must be ascending unsigned integers")
        entries[key], at = _read(data, at, depth - 1)
        last = key
    return entries, at


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, and where the content begins."""
    if at >= len(data):
        raise ValueError("cut short")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info < 24:
        return major, info, at
    if info > 27:
        raise ValueError(f"not canonical at byte {at - 1}: indefinite or reserved length")
    size = 1 << (info - 24)
    argument = int.from_bytes(data[at : at + size], "big")
    if at + size > len(data):
        raise ValueError("cut short")
    if argument < (24 if size == 1 else 1 << (4 * size)):
        raise ValueError(f"not canonical at byte {at - 1}: a shorter head exists")
    return major, argument, at + size


def decode_fields(data: bytes, what: str, names: tuple[str, ...], bytes_max: int) -> tuple[Any, ...]:
    """The values of a map whose keys are exactly 1 … len(names), in order. Raises ValueError naming the field."""
    if not isinstance(data, bytes):
        raise ValueError(f"{what}: must be bytes, not {type(data).__name__}")
    if len(data) > bytes_max:
        raise ValueError(f"{what}: {len(data)} bytes, at most {bytes_max} allowed")
    try:
        value = decode(data)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return fields(value, what, names)


def fields(value: object, what: str, names: tuple[str, ...]) -> tuple[Any, ...]:
    """As decode_fields, of a map already decoded. The values are still of any type: whoever takes them checks them."""
    if not isinstance(value, dict):
        raise ValueError(f"{what}: must be a map")
    for key, name in enumerate(names, 1):
        if key not in value:
            raise ValueError(f"{what}.{name}: missing")
    if len(value) != len(names):
        raise ValueError(f"{what}: unknown field {next(key for key in value if not 1 <= key <= len(names))}")
    return tuple(value.values())


def whole(name: str, value: object, least: int = 0, most: int = INT_MAX) -> int:
    """`value` as an integer of a stated range; a bool or a float is refused."""
    if type(value) is not int:
        raise ValueError(f"{name}: must be an integer, not {type(value).__name__}")
    if not least <= value <= most:
        allowed = f"between {least} and {most}" if least < most else f"{least}"
        raise ValueError(f"{name}: must be {allowed}")
    return value


def octets(name: str, value: object, size: int) -> bytes:
    """`value` as exactly `size` bytes."""
    if type(value) is not bytes:
        raise ValueError(f"{name}: must be bytes, not {type(value).__name__}")
    if len(value) != size:
        raise ValueError(f"{name}: must be {size} bytes, not {len(value)}")
    return value


def text(name: str, value: object, most: int) -> str:
    """`value` as printable ASCII of 1 … `most` characters."""
    if type(value) is not str:
        raise ValueError(f"{name}: must be text, not {type(value).__name__}")
    if not 1 <= len(value) <= most or not value.isascii() or not value.isprintable():
        raise ValueError(f"{name}: must be 1 to {most} printable ASCII characters")
    return value
