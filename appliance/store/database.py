"""The small database of a box (box.db): private, durable, safe to open from a command while the box runs."""

from pathlib import Path

import apsw

from sync.clock import Clock

FILE_NAME = "box.db"
LEDGERS = "ledger-*.db"  # beside box.db, one an epoch
FORMAT = 1  # PRAGMA user_version
WAIT_MS = 5000  # for another process's write

_SCHEMA = f"""
CREATE TABLE keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    digest BLOB NOT NULL UNIQUE,
    created_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) STRICT;
PRAGMA user_version = {FORMAT};
"""


class DatabaseError(Exception):
    """box.db cannot be used; the message says what to do."""


def open_database(folder: Path, clock: Clock) -> apsw.Connection:
    """The connection to box.db in `folder`, both made (0700, 0600) when absent. Raises DatabaseError.

    A box.db that was lost while the ledger was not numbers its keys from the present second on: an id in the ledger
    never comes to mean another key.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.touch(mode=0o600)
    try:
        database = apsw.Connection(str(path))
        database.set_busy_timeout(WAIT_MS)
        database.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0")
        with database:
            (version,) = database.execute("PRAGMA user_version").fetchone() or (0,)
            if version == 0:
                database.execute(_SCHEMA)
                if any(folder.glob(LEDGERS)):
                    last = clock.wall_ms() // 1000
                    database.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('keys', ?)", (last,))
    except apsw.Error as error:
        raise DatabaseError(f"{path}: {error}; restore it from a backup or move it aside") from error
    if version not in (0, FORMAT):
        raise DatabaseError(f"{path}: format {version}, this box reads {FORMAT}; use the release that wrote it")
    return database
