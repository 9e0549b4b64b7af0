"""Frames on the socket between the box and the engine's child: four bytes of length, then one CBOR value."""

import socket
from typing import Any

import cbor2

FRAME_BYTES_MAX = 32 << 20
HEADER_BYTES = 4


class WireError(Exception):
    """The other side sent what this protocol does not know. The connection cannot be trusted any more."""


class FrameTooLarge(WireError):
    """A message does not fit in a frame; nothing of it was sent."""


def encode_frame(value: Any) -> bytes:
    payload: bytes = cbor2.dumps(value)
    if len(payload) > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"{len(payload)} bytes are more than the {FRAME_BYTES_MAX} of a frame")
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def payload_bytes(header: bytes) -> int:
    """Size of the payload that follows `header`. Raises WireError before anything that large is read."""
    size = int.from_bytes(header, "big")
    if size > FRAME_BYTES_MAX:
        raise WireError(f"a frame of {size} bytes is over {FRAME_BYTES_MAX}")
    return size


def decode_payload(payload: bytes) -> Any:
    try:
        return cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise WireError(f"a frame is not CBOR: {type(error).__name__}") from None


def receive_frame(connection: socket.socket) -> Any:
    """The next value, blocking. Raises EOFError when the other side is gone."""
    return decode_payload(_receive(connection, payload_bytes(_receive(connection, HEADER_BYTES))))


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
