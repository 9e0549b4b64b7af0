"""The state folder of a box: private, used by one running box at a time, with the admin token in it."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.expected import OperatorError

ADMIN_TOKEN = "admin.token"  # noqa: S105 - a file's name
LOCK = "running.lock"


class StateError(OperatorError):
    """The state folder cannot be used; the message says why and what to do."""


def prepare(folder: Path) -> None:
    """Make the folder, 0700. Raises StateError when others may look into it or it cannot be made."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode & 0o777
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}; choose another folder with NUKKAD_STATE") from error
    if mode & 0o077:
        raise StateError(f"{folder}: others may look into it (mode {mode:04o}); close it with: chmod 700 {folder}")


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Inside, this process is the box of the folder. Raises StateError when another one is."""
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(f"{folder}: a box is running on it already; stop that one first") from None
        yield


def is_held(folder: Path) -> bool:
    """Whether a box is running on the folder."""
    try:
        with hold(folder):
            return False
    except StateError:
        return True
    except FileNotFoundError:
        return False


def admin_token(folder: Path) -> str:
    """The token of the admin routes, made at the first call and readable by the box's user alone."""
    path = folder / ADMIN_TOKEN
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w") as file:
        token = "nka_" + secrets.token_hex(32)
        file.write(token + "\n")
        file.flush()
        os.fsync(descriptor)
    return token
