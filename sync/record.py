"""The record of one call's billable use: integers and enums only, canonical bytes, one identity for ever.

No text of a prompt or an answer, and no hash of one, ever enters a record.
"""

from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

import cbor2

VERSION = 1
RECORD_BYTES_MAX = 600  # issue's bound is 1 KB a row; a record beyond this is a programming error


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
    """What the meter knows of a call; the ledger adds identity and time when it commits."""

    key_id: int
    meter: Meter
    model: bytes  # manifest digest, 32 bytes
    units: dict[Unit, int]
    outcome: Outcome
    lease: bytes  # 16 bytes
    price_book: bytes  # 32 bytes
    request_id: bytes  # 16 bytes, random


@dataclass(frozen=True)
class Record:
    device: bytes  # 16 bytes
    epoch: int
    seq: int  # 1, 2, 3 … without a gap
    boot: bytes  # 16 bytes, new at each start of the box
    monotonic_ns: int
    wall_ms: int
    draft: Draft

    @property
    def name(self) -> str:
        """device:epoch:seq, as callers see it in X-Nukkad-Record."""
        return f"{self.device.hex()}:{self.epoch}:{self.seq}"


def encode(record: Record) -> bytes:
    """Deterministic CBOR (RFC 8949 §4.2): equal records give equal bytes on every machine."""
    raise NotImplementedError


def decode(data: bytes) -> Record:
    """Raises ValueError naming the field when the bytes are not a canonical record of a known version."""
    raise NotImplementedError


def link(before: bytes, record: bytes) -> bytes:
    """Hash link of a chain: sha256(0x01 || link of the record before || canonical bytes). The first `before` is 32 zeros."""
    return sha256(b"\x01" + before + record).digest()


__all__ = ["RECORD_BYTES_MAX", "VERSION", "Draft", "Meter", "Outcome", "Record", "Unit", "cbor2", "decode", "encode", "link"]
