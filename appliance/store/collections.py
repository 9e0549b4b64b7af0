"""Collections of entries to search in (collections.db): texts and their vectors, kept apart from keys and records.

A collection belongs to the box: every key may read, change and search it. They have a file of their own because
they can be made again from what was uploaded, and need neither the care nor the backups of other databases.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlite_utils
from numpy.typing import NDArray

from sync.clock import Clock

FILE_NAME = "collections.db"
SCHEMA = 2  # PRAGMA user_version of the file; count it up with every change of the tables
COLLECTIONS_MAX = 100
ENTRIES_MAX = 1000  # of one collection
WAIT_S = 5.0  # for another process's write


class CollectionError(Exception):
    """Base of what the store of collections refuses: UnknownCollection, UnknownEntry, CollectionFull."""


class UnknownCollection(CollectionError):
    """No collection has this name."""


class UnknownEntry(CollectionError):
    """The collection has no entry of this id."""


class CollectionFull(CollectionError):
    """The box or the collection has as much as it may hold."""


@dataclass(frozen=True)
class Entry:
    """One question and its answer, as the shop wrote them. `language` is an ISO 639 code, if the shop gave one."""

    id: str
    question: str
    answer: str
    tags: tuple[str, ...] = ()
    language: str | None = None


@dataclass(frozen=True)
class Summary:
    """`revision` grows with every change, and none is ever given twice; `changed_ms` is wall time."""

    name: str
    model: str
    entries: int
    revision: int
    changed_ms: int


@dataclass(frozen=True)
class Vector:
    """What a model made of one entry: float32 [dim], unit length. `digest` is the model's."""

    digest: bytes
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """An entry with its vector; None until some model has seen it."""

    entry: Entry
    vector: Vector | None


Held = tuple[Summary, tuple[Stored, ...]]  # a collection and its entries, in the order they were given


class Collections:
    """Every change is one transaction. May be used from several threads; each call is atomic."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Opens or makes collections.db in `folder` (0600)."""
        path = folder / FILE_NAME
        path.touch(mode=0o600)
        self._clock = clock
        self._lock = threading.Lock()
        # A rollback journal rather than a write-ahead log: changes are rare, and one file is all there is to copy.
        self._database = sqlite_utils.Database(sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False))
        self._database.execute("PRAGMA foreign_keys = ON")
        self._make_tables()

    def close(self) -> None:
        with self._lock:  # A change under way ends first.
            self._database.close()

    def all(self) -> tuple[Summary, ...]:
        with self._lock:
            return tuple(self._summaries())

    def get(self, name: str) -> Summary:
        """Raises UnknownCollection."""
        with self._lock:
            return self._get(name)

    def load(self, name: str) -> Held:
        """Raises UnknownCollection."""
        with self._lock:
            return self._load(name)

    def find_room(self, name: str, ids: Iterable[str], replace: bool) -> Held | None:
        """What is there, None if nothing is, if these entries may join or `replace` it. Raises CollectionFull."""
        with self._lock:
            names = [summary.name for summary in self._summaries()]
            if name not in names:
                _check_collections(len(names))
                return None
            held = self._load(name)
            _check_entries(len({*ids} if replace else {*ids, *(each.entry.id for each in held[1])}))
            return held

    def replace(self, name: str, model: str, stored: Iterable[Stored]) -> Summary:
        """From now on the collection, made if there is none, has these entries and no others. Raises CollectionFull."""
        with self._change():
            known = {summary.name: summary for summary in self._summaries()}
            if name not in known:
                _check_collections(len(known))
            self._database["entries"].delete_where("collection = ?", [name])
            self._touch(name, model)
            self._insert(name, stored, 0)
            return self._get(name)

    def put(self, name: str, stored: Iterable[Stored]) -> Summary:
        """Add entries, or replace those of the same id. Raises UnknownCollection, CollectionFull."""
        with self._change():
            summary = self._get(name)
            entries = self._database["entries"]
            places = {row["id"]: row["place"] for row in entries.rows_where("collection = ?", [name])}
            after = max(places.values(), default=-1) + 1
            for each in stored:
                place = places.get(each.entry.id)
                if place is None:
                    place, after = after, after + 1
                self._insert(name, [each], place)
            self._touch(name, summary.model)
            return self._get(name)

    def keep(self, name: str, revision: int, stored: Iterable[Stored]) -> bool:
        """Vectors of a newer model for entries that did not change meanwhile; False, and nothing kept, if they did."""
        with self._change():
            if self._get(name).revision != revision:
                return False
            for each in stored:
                self._database["entries"].update((name, each.entry.id), _vector_columns(each.vector))
            return True

    def remove(self, name: str, entry_id: str) -> Summary:
        """Raises UnknownCollection, UnknownEntry."""
        with self._change():
            summary = self._get(name)
            gone = self._database.execute("DELETE FROM entries WHERE collection = ? AND id = ?", [name, entry_id])
            if gone.rowcount == 0:
                raise UnknownEntry(f"collection {name} has no entry {entry_id}")
            self._touch(name, summary.model)
            return self._get(name)

    def delete(self, name: str) -> None:
        """Raises UnknownCollection."""
        with self._change():
            self._get(name)
            self._database["entries"].delete_where("collection = ?", [name])
            self._database["collections"].delete(name)

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._lock, self._database.atomic():
            yield

    def _make_tables(self) -> None:
        """Also brings tables of an older version up to date: columns come and go, what stands in the others stays."""
        with self._change():
            if self._database.execute("PRAGMA user_version").fetchone() == (SCHEMA,):
                return
            self._database["collections"].create(
                {"name": str, "model": str, "revision": int, "changed_ms": int},
                pk="name",
                not_null={"model", "revision", "changed_ms"},
                transform=True,
                strict=True,
            )
            self._database["revisions"].create({"last": int}, not_null={"last"}, if_not_exists=True, strict=True)
            self._database["entries"].create(
                {
                    "collection": str,
                    "id": str,
                    "place": int,
                    "question": str,
                    "answer": str,
                    "tags": str,
                    "language": str,
                    "digest": bytes,
                    "vector": bytes,
                },
                pk=("collection", "id"),
                not_null={"place", "question", "answer", "tags"},
                transform=True,
                strict=True,
            )
            if self._database["revisions"].count == 0:
                last = max((summary.revision for summary in self._summaries()), default=0)
                self._database["revisions"].insert({"last": last})
            self._database.execute(f"PRAGMA user_version = {SCHEMA}")

    def _summaries(self) -> Iterator[Summary]:
        counts = {
            row["collection"]: row["entries"]
            for row in self._database.query("SELECT collection, count(*) AS entries FROM entries GROUP BY collection")
        }
        for row in self._database["collections"].rows_where(order_by="name"):
            yield Summary(row["name"], row["model"], counts.get(row["name"], 0), row["revision"], row["changed_ms"])

    def _get(self, name: str) -> Summary:
        for summary in self._summaries():
            if summary.name == name:
                return summary
        raise UnknownCollection(f"no collection is called {name}: PUT /v1/collections/{name} makes it")

    def _load(self, name: str) -> Held:
        rows = self._database["entries"].rows_where("collection = ?", [name], order_by="place")
        return self._get(name), tuple(_stored(row) for row in rows)

    def _touch(self, name: str, model: str) -> None:
        """Its next revision. They are counted over the whole file: who remembers a collection that was deleted must
        not take another of the same name for it."""
        ((revision,),) = self._database.execute("UPDATE revisions SET last = last + 1 RETURNING last").fetchall()
        row = {"name": name, "model": model, "revision": revision, "changed_ms": self._clock.wall_ms()}
        self._database["collections"].upsert(row, pk="name")

    def _insert(self, name: str, stored: Iterable[Stored], first: int) -> None:
        entries = self._database["entries"]
        rows = [
            {
                "collection": name,
                "id": each.entry.id,
                "place": place,
                "question": each.entry.question,
                "answer": each.entry.answer,
                "tags": json.dumps(each.entry.tags, ensure_ascii=False),
                "language": each.entry.language,
                **_vector_columns(each.vector),
            }
            for place, each in enumerate(stored, first)
        ]
        entries.insert_all(rows, pk=("collection", "id"), replace=True)
        _check_entries(entries.count_where("collection = ?", [name]))


def _check_collections(there: int) -> None:
    if there >= COLLECTIONS_MAX:
        raise CollectionFull(f"this box holds at most {COLLECTIONS_MAX} collections: delete one first")


def _check_entries(count: int) -> None:
    if count > ENTRIES_MAX:
        raise CollectionFull(f"a collection holds at most {ENTRIES_MAX} entries: split it into several")


def _vector_columns(vector: Vector | None) -> dict[str, object]:
    if vector is None:
        return {"digest": None, "vector": None}
    return {"digest": vector.digest, "vector": np.ascontiguousarray(vector.values, dtype="<f4").tobytes()}


def _stored(row: dict[str, object]) -> Stored:
    entry = Entry(
        id=str(row["id"]),
        question=str(row["question"]),
        answer=str(row["answer"]),
        tags=tuple(json.loads(str(row["tags"]))),
        language=None if row["language"] is None else str(row["language"]),
    )
    digest, blob = row["digest"], row["vector"]
    if not (isinstance(digest, bytes) and isinstance(blob, bytes)):
        return Stored(entry, None)
    return Stored(entry, Vector(digest, np.frombuffer(blob, dtype="<f4")))
