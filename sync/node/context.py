"""What every part of a running node needs, put together once and passed in."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.clock import Clock
from sync.node.database import Database
from sync.node.settings import Settings


@dataclass(frozen=True)
class Node:
    settings: Settings
    database: Database
    key: Ed25519PrivateKey  # signs receipts
    token: str  # the operator's
    clock: Clock
    random: Callable[[int], bytes]  # that many unpredictable bytes
