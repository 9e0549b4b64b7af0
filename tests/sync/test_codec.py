import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import codec

integers = st.integers(-(2**64), 2**64 - 1)
values = st.recursive(
    integers | st.binary(max_size=300) | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=30).map(tuple) | st.dictionaries(st.integers(0, 2**64 - 1), inner),
    max_leaves=20,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(values.filter(lambda value: depth(value) <= codec.DEPTH_MAX))
def test_encodes_as_the_public_library_does_and_back(value: codec.Value) -> None:
    data = codec.encode(value)
    assert data == cbor2.dumps(value, canonical=True)
    assert codec.decode(data) == value


@given(st.binary(max_size=40))
def test_accepts_nothing_but_what_it_would_write(data: bytes) -> None:
    try:
        value = codec.decode(data)
    except ValueError:
        return
    assert codec.encode(value) == data == cbor2.dumps(value, canonical=True)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("", "cut short"),
        ("18", "cut short"),
        ("1817", "shorter head"),  # 23 in two bytes
        ("1900ff", "shorter head"),
        ("1a0000ffff", "shorter head"),
        ("1b00000000ffffffff", "shorter head"),
        ("5818", "inside a string"),
        ("41", "inside a string"),
        ("0000", "after the end"),
        ("9fff", "indefinite"),
        ("bf0000ff", "indefinite"),
        ("1c", "reserved"),
        ("a201000000", "ascending"),  # keys 1, 0
        ("a201000100", "ascending"),  # key 1 twice
        ("a1410000", "ascending"),  # a key of bytes
        ("f4", "simple value"),  # false
        ("f93c00", "simple value"),  # 1.0
        ("c24101", "tag"),  # big number
        ("d8230161", "tag"),  # regular expression
        ("818181818100", "nested too deep"),
        ("62c328", "utf-8"),
        ("9bffffffffffffffff", "cut short"),  # an array said to be huge
        ("5bffffffffffffffff", "inside a string"),
    ],
)
def test_refuses(data: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        codec.decode(bytes.fromhex(data))


@pytest.mark.parametrize("value", [True, None, 1.5, {"a": 1}, {-1: 1}, object()])
def test_writes_nothing_outside_the_subset(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1])
def test_writes_no_integer_beyond_64_bits(value: int) -> None:
    with pytest.raises(OverflowError):
        codec.encode(value)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({1: 0}, r"thing\.two: missing"),
        ({1: 0, 2: 0, 3: 0}, "thing: unknown field 3"),
        ({0: 0, 1: 0, 2: 0}, "thing: unknown field 0"),
        ((1, 2), "thing: must be a map"),
    ],
)
def test_names_the_field_that_is_missing_or_unknown(value: codec.Value, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        codec.decode_fields(codec.encode(value), "thing", ("one", "two"), 100)


def test_bounds_the_bytes_before_reading_them() -> None:
    with pytest.raises(ValueError, match="thing: 101 bytes, at most 100"):
        codec.decode_fields(bytes(101), "thing", (), 100)
