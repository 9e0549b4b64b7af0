"""Reading files that strangers may have placed, and writing files that must survive a power cut."""

import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from models.errors import InvalidLayout, TamperedPackage

CHUNK_BYTES = 1 << 20

Progress = Callable[[int], None]
"""Called with the bytes done since the last call."""


def ignore_progress(_bytes: int) -> None:
    """The default: nobody watches."""


def open_regular(path: Path) -> BinaryIO:
    """Open a plain file for reading; links, pipes and devices are refused.

    A file with a second hard link is refused too: whoever holds the other name could change it after it was checked.
    """
    try:
        # Without O_NONBLOCK a pipe put in place of a file would hang the open.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise InvalidLayout(f"{path}: missing; fetch the package again, it is incomplete") from error
    except OSError as error:
        raise InvalidLayout(f"{path}: cannot be opened as a plain file ({error.strerror})") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InvalidLayout(f"{path}: not a plain file; put a copy of the file itself there")
    if status.st_nlink != 1:
        os.close(descriptor)
        raise InvalidLayout(f"{path}: has {status.st_nlink} hard links; put a copy of the file itself there")
    return os.fdopen(descriptor, "rb")


def read_small(source: BinaryIO, name: str, bytes_max: int) -> bytes:
    """All of a stream that must be small."""
    data = source.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise InvalidLayout(f"{name}: larger than the {bytes_max} bytes allowed for it")
    return data


def digest_stream(
    source: BinaryIO, size: int, target: BinaryIO | None = None, progress: Progress = ignore_progress
) -> str:
    """Copy exactly `size` bytes to `target` (if one is given) and return their sha256 as hex.

    Raises ValueError when the stream is shorter or longer; never reads more than one byte beyond `size`.
    """
    hasher = sha256()
    left = size
    while left:
        chunk = source.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise ValueError(f"{size - left} bytes where {size} were promised")
        hasher.update(chunk)
        if target is not None:
            target.write(chunk)
        left -= len(chunk)
        progress(len(chunk))
    if source.read(1):
        raise ValueError(f"more than the {size} bytes that were promised")
    return hasher.hexdigest()


def copy_checked(
    source: BinaryIO,
    name: str,
    size: int,
    digest: str,
    *,
    target: BinaryIO | None = None,
    progress: Progress = ignore_progress,
) -> None:
    """Copy while checking size and sha256 (hex). Raises TamperedPackage naming the file."""
    try:
        found = digest_stream(source, size, target, progress)
    except ValueError as error:
        raise TamperedPackage(f"{name}: {error}; fetch the package again") from error
    if found != digest:
        raise TamperedPackage(
            f"{name}: content does not match its digest sha256:{digest[:12]}…; fetch the package again"
        )


def flush_file(file: BinaryIO) -> None:
    """Return only when the file's bytes are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make names just created or renamed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(path: Path, data: bytes) -> None:
    """Give `path` new content at once: a reader, or a crash, sees the old bytes or the new ones, never a mixture."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        flush_file(file)
    fresh.replace(path)
    flush_folder(path.parent)
