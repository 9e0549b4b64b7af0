"""A disk that a test holds in its hand: it can be full, or die in the middle of its work. A SQLite file system (VFS).

A disk that died keeps what was synced; of each write since then, by chance, every sector or not. Deleting a file and
cutting it off are taken to be durable at once.
"""

import random
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


class HeldDisk(apsw.VFS):
    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.full = False
        self.works_left: int | None = None  # writes, syncs and deletions until the disk dies; None: it lives
        self._unsynced: dict[str, list[tuple[int, bytes, bytes]]] = {}

    def xOpen(self, name: Any, flags: list[int]) -> "_File":  # noqa: N802 (SQLite's own names)
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.work()
        self._unsynced.pop(filename, None)
        super().xDelete(filename, syncdir)

    def work(self) -> None:
        """Raises once the disk is dead."""
        if self.works_left is not None:
            if self.works_left == 0:
                raise apsw.IOError("the disk is dead")
            self.works_left -= 1

    def note_write(self, path: str, offset: int, before: bytes, data: bytes) -> None:
        self._unsynced.setdefault(path, []).append((offset, before, data))

    def note_sync(self, path: str) -> None:
        self._unsynced.pop(path, None)

    def power_up(self, chance: random.Random) -> None:
        """Leaves the files as a machine finds them after the power was away. Nothing may have them open."""
        for path, writes in self._unsynced.items():
            with Path(path).open("r+b") as file:
                for offset, before, data in reversed(writes):
                    file.seek(offset)
                    file.write(before)
                    if len(before) < len(data):  # The write had made the file longer.
                        file.truncate(offset + len(before))
                for offset, _, data in writes:
                    for at in range(0, len(data), SECTOR):
                        if chance.random() < 0.5:
                            file.seek(offset + at)
                            file.write(data[at : at + SECTOR])
        self._unsynced.clear()
        self.works_left = None


class _File(apsw.VFSFile):
    def __init__(self, disk: HeldDisk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.work()
        if self._disk.full:
            raise apsw.FullError("the disk is full")
        before = self.xRead(max(0, min(len(data), self.xFileSize() - offset)), offset)
        super().xWrite(data, offset)
        self._disk.note_write(self._path, offset, before, bytes(data))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.work()
        super().xSync(flags)
        self._disk.note_sync(self._path)
