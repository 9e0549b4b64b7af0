"""The state folder: a lock, the node's signing key and the operator's token; all of it for its owner alone."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.node.errors import NodeError

KEY = "node.key"
TOKEN = "operator.token"  # noqa: S105 - a file's name


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes by which boxes check receipts."""
    return key.public_key().public_bytes_raw()


@contextmanager
def hold_state(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process; the kernel lets go of it however the process ends.

    Raises NodeError when another node holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    descriptor = os.open(folder / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(
                f"another node is running on {folder}: stop it, or set NUKKAD_NODE_STATE to another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


def load_key(folder: Path) -> Ed25519PrivateKey:
    """The node's signing key, made at the first start."""
    path = folder / KEY
    if not path.exists():
        _write(path, Ed25519PrivateKey.generate().private_bytes_raw())
    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError:
        raise NodeError(f"{path} is damaged: put back your copy of it; boxes trust only that key") from None


def load_token(folder: Path) -> str:
    """The operator's token, made at the first start."""
    path = folder / TOKEN
    if not path.exists():
        _write(path, secrets.token_urlsafe(32).encode())
    return path.read_text(encoding="ascii").strip()


def read_token(folder: Path) -> str:
    """The token of a node that ran here before, for the command line. Raises NodeError with the next step."""
    try:
        return (folder / TOKEN).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise NodeError(
            f"no node has run on {folder}: start one with `nukkad node serve`, or set NUKKAD_NODE_STATE to its folder"
        ) from None
    except PermissionError:
        raise NodeError(f"{folder / TOKEN} is not yours to read: run this as the user the node runs as") from None


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a crash never leaves half a key."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # The database keeps the key's public half: it must never survive a key that does not.
    finally:
        os.close(folder)
