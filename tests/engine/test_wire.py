import contextlib
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.wire import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    FrameTooLarge,
    WireError,
    decode_payload,
    encode_frame,
    payload_bytes,
    receive_frame,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_what_is_framed_is_received(value: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frame = encode_frame(value)
        ours.sendall(frame[:3])
        ours.sendall(frame[3:])
        assert receive_frame(theirs) == value


def test_a_frame_that_is_too_large_is_not_made() -> None:
    with pytest.raises(FrameTooLarge):
        encode_frame(b"\0" * FRAME_BYTES_MAX)


def test_a_header_that_announces_too_much_is_refused_before_reading() -> None:
    assert payload_bytes(FRAME_BYTES_MAX.to_bytes(HEADER_BYTES, "big")) == FRAME_BYTES_MAX
    with pytest.raises(WireError):
        payload_bytes((FRAME_BYTES_MAX + 1).to_bytes(HEADER_BYTES, "big"))


@pytest.mark.parametrize("payload", [b"", b"\x81", b"\xff", b"\x62\xc3\x28", b"\x1c", b"\x9f" * 5000])
def test_what_is_not_cbor_is_a_wire_error(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_payload(payload)


@given(st.binary(max_size=64))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_payload(payload)


def test_a_connection_that_ends_inside_a_frame_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(encode_frame("whole") + encode_frame("cut")[:-1])
        assert receive_frame(theirs) == "whole"
        with pytest.raises(EOFError):
            receive_frame(theirs)
