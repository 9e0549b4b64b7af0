"""Brings the tables up to date: numbered SQL files, each applied once, all nodes taking turns."""

from hashlib import sha256
from importlib.resources import files

from sync.node.database import Connection, Database
from sync.node.errors import NodeError

LOCK_S_MAX = 600  # for who waits while another node migrates, or while requests under way hold a table
_TURN = 0x6E756B6B  # the advisory lock's number; any will do that nobody else uses


def migrations() -> list[tuple[int, str, str]]:
    """Number, name and text of each file, in order."""
    folder = files("sync.node") / "migrations"
    found = sorted(
        (file.name, file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )
    return [(int(name.split("_")[0]), name, text) for name, text in found]


def migrate(database: Database, now_ms: int) -> int:
    """Applies what is missing, in one transaction, and says how many files that were; safe to call from many nodes.

    The limits of requests do not hold here: a big table takes its time. Raises psycopg.errors.LockNotAvailable.
    """
    with database.transaction() as connection:
        connection.execute(f"set local statement_timeout = 0; set local lock_timeout = '{LOCK_S_MAX}s'")
        connection.execute("select pg_advisory_xact_lock(%s)", (_TURN,))
        applied = _applied(connection)
        known = migrations()
        if unknown := applied.keys() - {number for number, _, _ in known}:
            raise NodeError(
                f"the database has migration {max(unknown)}, which this node does not know: install a newer one"
            )
        missing = 0
        for number, name, text in known:
            digest = sha256(text.encode()).digest()
            if number not in applied:
                connection.execute(text.encode())
                connection.execute("insert into migrations values (%s, %s, %s, %s)", (number, name, digest, now_ms))
                missing += 1
            elif applied[number] != digest:
                raise NodeError(f"migration {name} was changed after it was applied: put back the file of the release")
        return missing


def _applied(connection: Connection) -> dict[int, bytes]:
    connection.execute(
        "create table if not exists migrations"
        " (number integer primary key, name text not null, sha256 bytea not null, applied_ms bigint not null)"
    )
    return dict(connection.execute("select number, sha256 from migrations").fetchall())
