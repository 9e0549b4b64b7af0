"""The record of one call's billable use: integers and enums only, canonical bytes, one identity for ever.

No text of a prompt or an answer, and no hash of one, ever enters a record.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from typing import TypeVar

from sync import codec

VERSION = 1
RECORD_BYTES_MAX = 256  # the largest of this version has 243
QUANTITY_MAX = 10**9  # with price.RATE_MAX this keeps the cost of a record inside 64 bits
FIRST_LINK = bytes(32)  # stands before the first record of an epoch


class Meter(IntEnum):
    """What kind of call was made. Numbers are for ever."""

    CHAT = 1
    COMPLETION = 2
    EMBEDDING = 3
    SEARCH = 4


class Unit(IntEnum):
    """What is counted. Numbers are for ever. Code points are counted after NFC."""

    REQUESTS = 1
    POINTS_IN = 2
    POINTS_OUT = 3
    TOKENS_IN = 4  # information, never billed
    TOKENS_OUT = 5  # information, never billed
    AUDIO_SECONDS = 6
    IMAGES = 7


class Outcome(IntEnum):
    """Failed calls leave no record: they are free."""

    COMPLETED = 1
    CANCELLED = 2  # the caller left: units are what was delivered


@dataclass(frozen=True)
class Draft:
    """What the meter knows of a call; the ledger adds identity and time when it commits.

    Raises ValueError naming a bad field.
    """

    key_id: int
    meter: Meter
    model: bytes  # manifest digest, 32 bytes
    units: dict[Unit, int]
    outcome: Outcome
    lease: bytes  # 16 bytes
    price_book: bytes  # 32 bytes
    request_id: bytes  # 16 bytes, random

    def __post_init__(self) -> None:
        codec.whole("key_id", self.key_id)
        _member("meter", self.meter, Meter)
        codec.octets("model", self.model, 32)
        for unit, quantity in self.units.items():
            _member("units", unit, Unit)
            codec.whole(f"units.{unit.name}", quantity, most=QUANTITY_MAX)
        _member("outcome", self.outcome, Outcome)
        codec.octets("lease", self.lease, 16)
        codec.octets("price_book", self.price_book, 32)
        codec.octets("request_id", self.request_id, 16)


@dataclass(frozen=True)
class Record:
    """Raises ValueError naming a bad field."""

    device: bytes  # 16 bytes
    epoch: int
    seq: int  # 1, 2, 3 … without a gap
    boot: bytes  # 16 bytes, new at each start of the box
    monotonic_ns: int
    wall_ms: int
    draft: Draft

    def __post_init__(self) -> None:
        codec.octets("device", self.device, 16)
        codec.whole("epoch", self.epoch, least=1)
        codec.whole("seq", self.seq, least=1)
        codec.octets("boot", self.boot, 16)
        codec.whole("monotonic_ns", self.monotonic_ns)
        codec.whole("wall_ms", self.wall_ms)

    @property
    def name(self) -> str:
        """device:epoch:seq, as callers see it in X-Nukkad-Record."""
        return f"{self.device.hex()}:{self.epoch}:{self.seq}"


_FIELDS = (
    "version", "device", "epoch", "seq", "boot", "monotonic_ns", "wall_ms", "key_id",
    "meter", "model", "units", "outcome", "lease", "price_book", "request_id",
)  # fmt: skip


def encode(record: Record) -> bytes:
    """Deterministic CBOR (RFC 8949 §4.2): equal records give equal bytes on every machine. About 200 bytes."""
    draft = record.draft
    values: tuple[codec.Value, ...] = (
        VERSION, record.device, record.epoch, record.seq, record.boot, record.monotonic_ns, record.wall_ms,
        draft.key_id, draft.meter, draft.model, {int(unit): quantity for unit, quantity in draft.units.items()},
        draft.outcome, draft.lease, draft.price_book, draft.request_id,
    )  # fmt: skip
    return codec.encode(dict(enumerate(values, 1)))


def decode(data: bytes) -> Record:
    """Raises ValueError naming the field when the bytes are not a canonical record of a known version."""
    values = codec.decode_fields(data, "record", _FIELDS, RECORD_BYTES_MAX)
    version, device, epoch, seq, boot, monotonic_ns, wall_ms, key_id, meter, model, units = values[:11]
    try:
        codec.whole("version", version, VERSION, VERSION)
        if not isinstance(units, dict):
            raise ValueError("units: must be a map")
        known_units = {_enum("units", unit, Unit): quantity for unit, quantity in units.items()}
        outcome, *hashes = values[11:]
        draft = Draft(
            key_id, _enum("meter", meter, Meter), model, known_units, _enum("outcome", outcome, Outcome), *hashes
        )
        return Record(device, epoch, seq, boot, monotonic_ns, wall_ms, draft)
    except ValueError as error:
        raise ValueError(f"record.{error}") from error


def link(before: bytes, record: bytes) -> bytes:
    """Hash link of a chain: sha256(0x01 || link before || canonical bytes). The first `before` is FIRST_LINK."""
    return sha256(b"\x01" + before + record).digest()


_Enum = TypeVar("_Enum", bound=IntEnum)


def _member(name: str, value: object, kind: type[IntEnum]) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name}: must be a {kind.__name__}, not {type(value).__name__}")


def _enum(name: str, value: object, kind: type[_Enum]) -> _Enum:
    number = codec.whole(name, value)
    try:
        return kind(number)
    except ValueError:
        raise ValueError(f"{name}: {number} is not a known {kind.__name__}") from None
