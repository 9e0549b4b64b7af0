"""Ed25519 signatures with a purpose: a signature over one kind of message never passes for another kind.

What is signed is the purpose's name, a zero byte, and the message.
"""

from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class Purpose(StrEnum):
    SEGMENT = "nukkad segment v1"
    RECEIPT = "nukkad receipt v1"
    REQUEST = "nukkad request v1"


class BadSignature(ValueError):
    """The signature does not belong to this message, purpose and key."""


def sign(key: Ed25519PrivateKey, purpose: Purpose, message: bytes) -> bytes:
    """64 bytes; the same input gives the same signature."""
    return key.sign(purpose.encode() + b"\0" + message)


def verify(public_key: bytes, purpose: Purpose, message: bytes, signature: bytes) -> None:
    """Raises BadSignature, also for a public key that is not 32 bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, purpose.encode() + b"\0" + message)
    except (InvalidSignature, ValueError):
        raise BadSignature(f"the signature is not one of a {purpose} by key {public_key.hex()[:16]}…") from None


def request_message(method: str, path: str, time_ms: int, body: bytes) -> bytes:
    """What a box signs (Purpose.REQUEST) of a plain HTTP request: everything that gives it meaning, and its time."""
    return f"{method} {path} {time_ms}\n".encode() + body
