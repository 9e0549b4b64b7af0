"""Where a layout is read from: a folder, or the same folder as one .tar on a stick. Both give plain byte streams."""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from models.errors import InvalidLayout
from models.files import open_regular, read_small
from models.oci import LAYERS_MAX

TAR_MEMBERS_MAX = 2 * LAYERS_MAX
TAR_READ_BYTES_MAX = 4 << 20
_MEMBER = re.compile(r"^(\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$")
_MEMBER_FOLDER = re.compile(r"^(\.|(\./)?blobs(/sha256)?)/?$")


class LayoutSource(Protocol):
    """`name` is `oci-layout`, `index.json` or `blobs/sha256/…`; a missing one raises InvalidLayout."""

    def open(self, name: str) -> BinaryIO: ...


class FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, name: str) -> BinaryIO:
        return open_regular(self._folder / name)


class _BoundedReads:
    """tarfile reads an extended header in one call of whatever size the header claims; refuse absurd ones."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= TAR_READ_BYTES_MAX:
            raise InvalidLayout(
                f"archive: a header of more than {TAR_READ_BYTES_MAX} bytes; pack it again with plain tar"
            )
        return self._file.read(size)


class TarSource:
    """Members are looked up by name and streamed; nothing is ever extracted by the names in the archive."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            if member.isdir() and _MEMBER_FOLDER.match(member.name):
                continue
            match = _MEMBER.match(member.name)
            if match is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                raise InvalidLayout(f"archive: {member.name!r} does not belong in a model package")
            name = match.group(2)
            if name in self._members:
                raise InvalidLayout(f"archive: {name!r} occurs twice")
            self._members[name] = member
            if len(self._members) > TAR_MEMBERS_MAX:
                raise InvalidLayout(f"archive: more than {TAR_MEMBERS_MAX} files")

    def open(self, name: str) -> BinaryIO:
        member = self._members.get(name)
        if member is None:
            raise InvalidLayout(f"archive: {name} is missing; fetch the package again, it is incomplete")
        return cast(BinaryIO, self._archive.extractfile(member))


@contextmanager
def open_source(path: Path) -> Iterator[LayoutSource]:
    """The layout at `path`: a folder, or a file taken for an uncompressed tar. Raises InvalidLayout."""
    if _is_folder(path):
        yield FolderSource(path)
        return
    with open_regular(path) as file:
        try:
            with tarfile.open(fileobj=cast(BinaryIO, _BoundedReads(file)), mode="r:") as archive:
                yield TarSource(archive)
        except (tarfile.TarError, RecursionError) as error:
            raise InvalidLayout(f"{path}: not an uncompressed tar of an OCI layout ({error})") from error


def _is_folder(path: Path) -> bool:
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
        if not os.access(path, os.R_OK | os.X_OK if folder else os.R_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidLayout(
            f"{path}: cannot be read ({reason}); put it where the user nukkad may read it, such as /var/tmp"
        ) from error
    return folder


def read_document(source: LayoutSource, name: str, bytes_max: int) -> bytes:
    with source.open(name) as file:
        return read_small(file, name, bytes_max)
