import dataclasses
import typing

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import record
from sync.record import FIRST_LINK, RECORD_BYTES_MAX, Draft, Meter, Outcome, Record, Unit
from tests.support.usage import make_draft, make_record, records

GOLDEN = Record(
    device=bytes.fromhex("000102030405060708090a0b0c0d0e0f"),
    epoch=1,
    seq=24,
    boot=b"\xb0" * 16,
    monotonic_ns=1_000_000_000,
    wall_ms=1_790_000_000_000,
    draft=Draft(
        key_id=7,
        meter=Meter.CHAT,
        model=b"\x4d" * 32,
        units={Unit.POINTS_OUT: 300, Unit.REQUESTS: 1, Unit.POINTS_IN: 70_000},
        outcome=Outcome.CANCELLED,
        lease=b"\x1e" * 16,
        price_book=b"\xb0" * 32,
        request_id=b"\x1d" * 16,
    ),
)
# Written by hand from RFC 8949: a change of one byte here breaks every ledger and every chain that exists.
GOLDEN_BYTES = bytes.fromhex(
    "af"  # a map of 15
    "0101"  # version 1
    "0250000102030405060708090a0b0c0d0e0f"
    "0301"
    "041818"
    "0550" + "b0" * 16 + "061a3b9aca00"
    "071b000001a0c4506c00"
    "0807"
    "0901"
    "0a5820" + "4d" * 32 + "0ba30101021a00011170"
    "0319012c"
    "0c02"
    "0d50" + "1e" * 16 + "0e5820" + "b0" * 32 + "0f50" + "1d" * 16
)


def test_golden_bytes_and_link() -> None:
    assert record.encode(GOLDEN).hex() == GOLDEN_BYTES.hex()
    assert record.decode(GOLDEN_BYTES) == GOLDEN
    first = record.link(FIRST_LINK, GOLDEN_BYTES)
    assert first.hex() == "4efa7b6d66783e55ed3fd0e205c3c5f55739571ab71f8eb103205ee6700fde35"
    assert record.link(first, GOLDEN_BYTES) != first
    assert GOLDEN.name == "000102030405060708090a0b0c0d0e0f:1:24"


@given(records)
def test_round_trip(one: Record) -> None:
    data = record.encode(one)
    assert record.decode(data) == one
    assert len(data) <= RECORD_BYTES_MAX
    assert data == cbor2.dumps(cbor2.loads(data), canonical=True)
    assert data.endswith(one.draft.request_id)  # The ledger's index of request ids depends on it.


@given(records, st.data())
def test_any_flipped_bit_is_refused_or_is_another_record(one: Record, draw: st.DataObject) -> None:
    data = bytearray(record.encode(one))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << bit % 8
    try:
        other = record.decode(bytes(data))
    except ValueError as error:
        assert str(error).startswith("record")
        return
    assert other != one
    assert record.encode(other) == data


@given(records, st.integers(0, 300))
def test_any_part_is_refused(one: Record, size: int) -> None:
    data = record.encode(one)
    with pytest.raises(ValueError, match="record"):
        record.decode(data[: min(size, len(data) - 1)])


@given(st.binary(max_size=RECORD_BYTES_MAX + 50))
def test_strangers_bytes_raise_only_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="record"):
        record.decode(data)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        (1, 2, "record.version: must be 1"),
        (2, b"short", "record.device: must be 16 bytes, not 5"),
        (3, 0, "record.epoch: must be between 1"),
        (4, 0, "record.seq: must be between 1"),
        (4, 2**63, "record.seq: must be between 1"),
        (5, "text of a boot id", "record.boot: must be bytes, not str"),
        (6, -1, "record.monotonic_ns: must be between 0"),
        (7, -1, "record.wall_ms: must be between 0"),
        (8, b"", "record.key_id: must be an integer, not bytes"),
        (9, 99, "record.meter: 99 is not a known Meter"),
        (10, b"m" * 31, "record.model: must be 32 bytes, not 31"),
        (11, {99: 1}, "record.units: 99 is not a known Unit"),
        (11, {2: -1}, "record.units.POINTS_IN: must be between 0"),
        (11, {2: 10**9 + 1}, "record.units.POINTS_IN: must be between 0"),
        (11, {2: "text"}, "record.units.POINTS_IN: must be an integer, not str"),
        (11, 5, "record.units: must be a map"),
        (12, 3, "record.outcome: 3 is not a known Outcome"),
        (13, b"", "record.lease: must be 16 bytes, not 0"),
        (14, b"", "record.price_book: must be 32 bytes, not 0"),
        (15, "a request id that is text", "record.request_id: must be bytes, not str"),
        (16, 0, "record: unknown field 16"),
    ],
)
def test_refuses_a_bad_field_by_name(key: int, value: object, what: str) -> None:
    fields = cbor2.loads(GOLDEN_BYTES)
    fields[key] = value
    with pytest.raises(ValueError, match=what):
        record.decode(cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize("key", range(1, 16))
def test_refuses_a_missing_field(key: int) -> None:
    fields = cbor2.loads(GOLDEN_BYTES)
    del fields[key]
    with pytest.raises(ValueError, match=r"record\.\w+: missing"):
        record.decode(cbor2.dumps(fields, canonical=True))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"meter": 1}, "meter: must be a Meter, not int"),
        ({"key_id": True}, "key_id: must be an integer, not bool"),
        ({"units": {2: 1}}, "units: must be a Unit, not int"),
        ({"units": {Unit.POINTS_IN: 1.0}}, "units.POINTS_IN: must be an integer, not float"),
        ({"request_id": b"x"}, "request_id: must be 16 bytes, not 1"),
    ],
)
def test_a_draft_is_checked_when_it_is_made(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_draft(**changes)  # type: ignore[arg-type]


def test_no_field_could_hold_text() -> None:
    """The promise that no prompt leaves the box: a record has no field of text, and none of free length."""

    def leaves(kind: object) -> set[object]:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return set().union(*(leaves(hint) for hint in typing.get_type_hints(kind).values()))
        if typing.get_origin(kind) is dict:
            return set().union(*map(leaves, typing.get_args(kind)))
        return {kind}

    assert leaves(Record) == {int, bytes, Meter, Unit, Outcome}
    fields = cbor2.loads(record.encode(make_record()))
    lengths = {key: len(value) for key, value in fields.items() if isinstance(value, bytes)}
    assert lengths == {2: 16, 5: 16, 10: 32, 13: 16, 14: 32, 15: 16}
