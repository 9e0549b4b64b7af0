"""The packages installed on a box, and which of them serve.

    ROOT/lock                     held while the store is changed, so that two commands cannot change it at once
    ROOT/incoming/                packages being written; leftovers of a crash are swept at the next change
    ROOT/packages/HEX/image.json  the OCI manifest; HEX is its sha256, the package's identity
    ROOT/packages/HEX/files/      the package's files, flat, under their own names, read-only
    ROOT/active/NAME.json         {"current": HEX, "previous": HEX or null} for each name that serves

A package appears under `packages/` by one rename, after every digest was checked, its graphs were inspected and its
bytes are on the disk. A name changes its package by one rename of its small file. A crash anywhere therefore leaves
what served before. Readers take no lock and need none.

Opening a package compares its manifest with its digest and every file's size with the manifest: a few system calls, so
a box starts at once. `verify` reads all bytes.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from models.errors import InvalidLayout, NothingToRollBack, NotInstalled, PackageError, StoreError, TamperedPackage
from models.files import (
    Progress,
    copy_checked,
    flush_folder,
    ignore_progress,
    open_regular,
    read_small,
    replace_durably,
)
from models.inspection import inspect_package
from models.layout import check_image, open_source, read_package, unpack
from models.manifest import Manifest, read_manifest
from models.oci import DOCUMENT_BYTES_MAX, Descriptor

SPARE_BYTES = 64 << 20  # left free on the disk for the ledger, whatever is installed
_HEX = re.compile(r"^[0-9a-f]{64}$")
_Hex = Annotated[str, StringConstraints(pattern=_HEX.pattern)]


@dataclass(frozen=True)
class Installed:
    """A package in the store. `digest` is the sha256 of its OCI manifest (32 bytes); `folder` holds its files."""

    manifest: Manifest
    digest: bytes
    folder: Path

    @property
    def name(self) -> str:
        return self.manifest.name


@dataclass(frozen=True)
class Damaged:
    """A package in the store that cannot be opened, and why. Installing it again mends it; `remove` takes it away."""

    digest: bytes
    error: PackageError


class Pointer(BaseModel):
    """What serves under a name, and what served before."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    current: _Hex
    previous: _Hex | None


@dataclass(frozen=True)
class Undo:
    """What `activate` changed, for `restore`: what stood there before (None: the name did not serve), what came."""

    before: Pointer | None
    digest: bytes


class Store:
    """`inspect` checks a folder of files before it may become a package, and raises to refuse it."""

    def __init__(self, root: Path, inspect: Callable[[Path, Manifest], None] = inspect_package) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._packages = root / "packages"
        self._active = root / "active"
        self._inspect = inspect

    # What is there.

    def installed(self) -> tuple[list[Installed], list[Damaged]]:
        """Every package, by name and version; and those that cannot be opened."""
        found: list[Installed] = []
        damaged: list[Damaged] = []
        for digest in sorted(bytes.fromhex(path.name) for path in _entries(self._packages) if _HEX.match(path.name)):
            try:
                found.append(self.open(digest))
            except PackageError as error:
                damaged.append(Damaged(digest, error))
        return sorted(found, key=lambda package: (package.manifest.name, package.manifest.version)), damaged

    def names(self) -> list[str]:
        """Names that serve."""
        return sorted(path.stem for path in _entries(self._active) if path.suffix == ".json" and path.name[0] != ".")

    def active(self) -> list[Installed]:
        """The serving package of every name. Raises on the first that is damaged; `current` looks at one."""
        return [self.current(name) for name in self.names()]

    def serving(self, name: str) -> bytes:
        """The identity of the package that serves under a name, unopened. Raises NotInstalled, StoreError."""
        return bytes.fromhex(self._pointer(name).current)

    def current(self, name: str) -> Installed:
        """The package that serves under a name. Raises NotInstalled, StoreError, TamperedPackage."""
        return self.open(self.serving(name))

    def open(self, digest: bytes) -> Installed:
        """A package by identity, after the cheap checks. Raises NotInstalled, TamperedPackage."""
        folder = self._packages / digest.hex() / "files"
        for name, blob in self._files(digest).items():
            with _open_kept(folder / name) as file:
                size = os.fstat(file.fileno()).st_size
            if size != blob.size:
                raise TamperedPackage(
                    f"{folder / name}: {size} bytes where its package promises {blob.size}; install the package again"
                )
        return Installed(read_manifest(folder), digest, folder)

    def verify(self, digest: bytes, progress: Progress = ignore_progress) -> Installed:
        """Read every byte of a package. Raises TamperedPackage naming the file that differs."""
        folder = self._packages / digest.hex() / "files"
        files = self._files(digest)
        for name, blob in files.items():
            with _open_kept(folder / name) as file:
                copy_checked(file, str(folder / name), blob.size, blob.hex, progress=progress)
        strangers = {path.name for path in folder.iterdir()}.difference(files)
        if strangers:
            raise TamperedPackage(f"{folder}: {', '.join(sorted(strangers))}: not part of the package; remove it")
        return self.open(digest)

    # What changes it. Each of these is done entirely or not at all.

    def install(self, layout: Path, progress: Progress = ignore_progress) -> Installed:
        """Take in a package from a layout (folder or .tar). Idempotent; a damaged copy in the store is replaced.

        Installing does not make it serve: `activate` does. Raises PackageError of any kind.
        """
        with self._lock(), open_source(layout) as source:
            package = read_package(source)
            target = self._packages / package.digest.hex()
            if target.exists():
                try:
                    return self.verify(package.digest, progress)
                except (InvalidLayout, TamperedPackage):
                    pass  # replaced below
            needed = package.size + SPARE_BYTES
            free = shutil.disk_usage(self._root).free
            if needed > free:
                raise StoreError(f"{self._root}: {free} bytes free where {needed} are needed; remove a package first")
            fresh = Path(tempfile.mkdtemp(dir=self._incoming))
            try:
                unpack(source, package, fresh / "files", progress)
                self._inspect(fresh / "files", package.manifest)
                replace_durably(fresh / "image.json", package.image)
                if target.exists():
                    self._discard(target)
                fresh.chmod(0o755)
                fresh.rename(target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)  # gone already unless something was refused
            flush_folder(self._packages)
            return self.open(package.digest)

    def activate(self, name: str, digest: bytes) -> Undo:
        """Let an installed package serve under its name; the one before is kept for `roll_back`. Idempotent."""
        with self._lock():
            package = self.open(digest)
            if package.name != name:
                raise StoreError(
                    f"{digest.hex()[:12]} is a package of {package.name!r}, not of {name!r}; activate it as that"
                )
            before = self._pointer(name) if name in self.names() else None
            current = None if before is None else before.current
            if current != digest.hex():
                self._point(name, Pointer(current=digest.hex(), previous=current))
            return Undo(before, digest)

    def restore(self, name: str, undo: Undo) -> None:
        """Undo `activate`: what stood there before stands there again, less what was removed since.

        Changes nothing where something else serves by now: whoever chose that did so later.
        """
        with self._lock():
            if name not in self.names() or self._pointer(name).current != undo.digest.hex():
                return
            before = undo.before
            if before is None or not self._holds(before.current):
                self._unpoint(name)
            else:
                previous = before.previous
                kept = None if previous is None or not self._holds(previous) else previous
                self._point(name, Pointer(current=before.current, previous=kept))

    def roll_back(self, name: str) -> Installed:
        """Let the package that served before serve again. A second roll-back goes forward again."""
        with self._lock():
            pointer = self._pointer(name)
            if pointer.previous is None:
                raise NothingToRollBack(f"{name}: no package served before this one; activate one by its digest")
            package = self.open(bytes.fromhex(pointer.previous))
            self._point(name, Pointer(current=pointer.previous, previous=pointer.current))
            return package

    def deactivate(self, name: str) -> None:
        """Stop serving a name; its packages stay installed. Raises NotInstalled when it does not serve."""
        with self._lock():
            self._pointer(name)
            self._unpoint(name)

    def remove(self, digest: bytes) -> None:
        """Delete a package that does not serve, damaged or not. If it was kept for a roll-back, that is forgotten."""
        with self._lock():
            folder = self._packages / digest.hex()
            if not folder.is_dir():
                raise NotInstalled(f"{digest.hex()[:12]}: not installed; see what is")
            for name in self.names():
                pointer = self._pointer(name)
                if pointer.current == digest.hex():
                    raise StoreError(f"{digest.hex()[:12]} serves as {name!r}; activate another or deactivate it first")
                if pointer.previous == digest.hex():
                    self._point(name, Pointer(current=pointer.current, previous=None))
            self._discard(folder)

    # How.

    def _files(self, digest: bytes) -> dict[str, Descriptor]:
        path = self._packages / digest.hex() / "image.json"
        if not path.parent.is_dir():
            raise NotInstalled(f"{digest.hex()[:12]}: not installed; install its package first")
        with _open_kept(path) as file:
            return dict(check_image(read_small(file, str(path), DOCUMENT_BYTES_MAX), digest))

    def _holds(self, digits: str) -> bool:
        return (self._packages / digits).is_dir()

    def _pointer_path(self, name: str) -> Path:
        return self._active / f"{name}.json"

    def _pointer(self, name: str) -> Pointer:
        if name not in self.names():
            raise NotInstalled(f"{name}: no package serves under this name; activate one")
        path = self._pointer_path(name)
        try:
            pointer = Pointer.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise StoreError(f"{path}: damaged; delete it and activate a package of {name!r} again") from error
        return pointer

    def _point(self, name: str, pointer: Pointer) -> None:
        replace_durably(self._pointer_path(name), pointer.model_dump_json().encode())

    def _unpoint(self, name: str) -> None:
        self._pointer_path(name).unlink()
        flush_folder(self._active)

    def _discard(self, folder: Path) -> None:
        """Out of sight by one rename first: a crash while deleting must not leave half a package under its name."""
        grave = Path(tempfile.mkdtemp(dir=self._incoming))
        folder.rename(grave / "package")
        flush_folder(folder.parent)
        shutil.rmtree(grave)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One change at a time; waits for the one that is going on. The kernel frees the lock of a killed process."""
        for folder in (self._incoming, self._packages, self._active):
            folder.mkdir(parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for leftover in self._incoming.iterdir():
                shutil.rmtree(leftover)
            yield


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _open_kept(path: Path) -> BinaryIO:
    """A file of the store: anything but a plain file there means that somebody tampered with it."""
    try:
        return open_regular(path)
    except InvalidLayout as error:
        raise TamperedPackage(f"{error}; install the package again") from error
