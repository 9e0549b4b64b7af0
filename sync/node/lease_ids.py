"""The id of a lease proves itself: random bytes, and a keyed hash of them, of the box, and of the price book.

So the node knows of any record, however late it comes and whatever answers were lost, whether its lease and price book
were issued together to that box and epoch, without keeping every lease of every minute.
"""

import hmac
from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_RANDOM_BYTES, _PROOF_BYTES = 6, 10


def make_id(
    key: Ed25519PrivateKey, device: bytes, epoch: int, price_book: bytes, random: Callable[[int], bytes]
) -> bytes:
    """16 bytes that only the holder of the node's key can make."""
    salt = random(_RANDOM_BYTES)
    return salt + _proof(key, device, epoch, price_book, salt)


def is_issued(key: Ed25519PrivateKey, device: bytes, epoch: int, price_book: bytes, lease: bytes) -> bool:
    """Whether this lease was issued to this device and epoch together with this price book (its hash)."""
    salt, proof = lease[:_RANDOM_BYTES], lease[_RANDOM_BYTES:]
    return hmac.compare_digest(proof, _proof(key, device, epoch, price_book, salt))


def _proof(key: Ed25519PrivateKey, device: bytes, epoch: int, price_book: bytes, salt: bytes) -> bytes:
    secret = hmac.digest(key.private_bytes_raw(), b"nukkad lease ids v1", sha256)
    return hmac.digest(secret, device + epoch.to_bytes(8, "big") + price_book + salt, sha256)[:_PROOF_BYTES]
