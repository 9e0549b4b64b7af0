"""Who this box is: its device id and signing key, and the node it is enrolled with, in one private file."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync import codec
from sync.errors import IdentityError

FILE_NAME = "identity.json"
FILE_BYTES_MAX = 8 * 1024


@dataclass(frozen=True)
class Enrolment:
    """The node this box reports to; its key is pinned here once, and only receipts signed with it count."""

    node_url: str
    node_key: str  # Ed25519 public key, 64 hex digits
    customer: str
    epoch: int

    def __post_init__(self) -> None:
        codec.text("node_url", self.node_url, most=512)
        codec.text("customer", self.customer, most=128)
        codec.whole("epoch", self.epoch, least=1)
        codec.octets("node_key", bytes.fromhex(self.node_key), 32)

    @property
    def node_public_key(self) -> bytes:
        return bytes.fromhex(self.node_key)


@dataclass(frozen=True)
class Identity:
    device: bytes  # 16 bytes, random, for ever
    key: Ed25519PrivateKey
    enrolment: Enrolment | None

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    @property
    def epoch(self) -> int:
        """The epoch the node gave; 1 before enrolment, which is what a node gives first."""
        return self.enrolment.epoch if self.enrolment else 1


def load_or_create(folder: Path, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> Identity:
    """The identity kept in `folder`; made, and durable, at the first call. Raises IdentityError."""
    path = folder / FILE_NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _write(path, Identity(random_bytes(16), Ed25519PrivateKey.from_private_bytes(random_bytes(32)), None))
    return _read(path)


def save_enrolment(folder: Path, identity: Identity, enrolment: Enrolment) -> Identity:
    """Durable when it returns. An enrolment is replaced only by an equal one: another epoch needs another ledger."""
    if identity.enrolment not in (None, enrolment):
        raise IdentityError(
            f"{folder / FILE_NAME}: this box is already enrolled for customer {identity.enrolment.customer}; "
            "to enrol it anew, sync, then move the whole state folder aside"
        )
    enrolled = replace(identity, enrolment=enrolment)
    _write(folder / FILE_NAME, enrolled)
    return enrolled


def _read(path: Path) -> Identity:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise IdentityError(
            f"{path}: others may read the box's signing key (mode {mode:04o}); if nobody has: chmod 600 {path}"
        )
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX)
    try:
        stored = json.loads(data)
        enrolment = Enrolment(**stored["enrolment"]) if stored["enrolment"] else None
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(stored["key"]))
        return Identity(codec.octets("device", bytes.fromhex(stored["device"]), 16), key, enrolment)
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityError(
            f"{path}: damaged ({error}); restore it from a backup, or move the whole state folder aside and enrol anew"
        ) from error


def _write(path: Path, identity: Identity) -> None:
    """Whole or not at all, also at a power cut: a new private file, synced, renamed over the old one."""
    stored = {
        "device": identity.device.hex(),
        "key": identity.key.private_bytes_raw().hex(),
        "enrolment": asdict(identity.enrolment) if identity.enrolment else None,
    }
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(stored, file, indent=1)
        file.flush()
        os.fsync(descriptor)
    fresh.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
