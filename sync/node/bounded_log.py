"""A log file that keeps the newest of what it is given, within a bound: the file itself and the one before it."""

import contextlib
import os
from pathlib import Path


class BoundedLog:
    """Written by one thread. On a full or broken disk lines are lost, for whoever writes them must never wait."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        """The two files together hold at most `bytes_max`, a line beyond half of that excepted."""
        self._path, self._half = path, bytes_max // 2
        self._file = -1
        self._size = 0

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file < 0 or (self._size and self._size + len(line) > self._half):
                self._turn()
            self._size += os.write(self._file, line)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _turn(self) -> None:
        """Opens the file; a full one becomes the one before."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            if self._size or self._path.stat().st_size > self._half:
                self._path.rename(self._path.with_name(f"{self._path.name}.1"))
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
