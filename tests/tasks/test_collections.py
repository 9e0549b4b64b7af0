"""The store of collections: each change whole or not at all, and everything there again after it is opened anew."""

import sqlite3
import stat
from pathlib import Path

import numpy as np
import pytest

from appliance.store import collections as module
from appliance.store.collections import (
    CollectionFull,
    Collections,
    Entry,
    Stored,
    UnknownCollection,
    UnknownEntry,
    Vector,
)
from tests.support.held_clock import HeldClock

DIGEST = b"\x07" * 32


def stored(name: str, answer: str = "answer", *, seen: bool = True) -> Stored:
    values = np.arange(4, dtype=np.float32)
    return Stored(Entry(name, f"{name}?", answer, ("tag", "चिप्पी"), "hi"), Vector(DIGEST, values) if seen else None)


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    first = Collections(tmp_path, HeldClock())
    first.replace("faq", "e5", [stored("b"), stored("a", seen=False)])
    first.close()
    again = Collections(tmp_path, HeldClock())
    summary, (b, a) = again.load("faq")
    again.close()
    assert (summary.name, summary.model, summary.entries, summary.revision) == ("faq", "e5", 2, 1)
    assert b.entry == stored("b").entry
    assert b.vector is not None
    assert b.vector.digest == DIGEST
    assert b.vector.values.tolist() == [0, 1, 2, 3]
    assert (a.entry.id, a.vector) == ("a", None)


def test_the_file_is_private_and_keeps_no_write_ahead_log(tmp_path: Path) -> None:
    opened = Collections(tmp_path, HeldClock())
    opened.replace("faq", "e5", [stored("a")])
    path = tmp_path / module.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    opened.close()


def test_put_replaces_in_place_and_adds_at_the_end(collections: Collections) -> None:
    collections.replace("faq", "e5", [stored("a"), stored("b")])
    summary = collections.put("faq", [stored("c"), stored("a", "new")])
    _, entries = collections.load("faq")
    assert [(each.entry.id, each.entry.answer) for each in entries] == [("a", "new"), ("b", "answer"), ("c", "answer")]
    assert (summary.entries, summary.revision) == (3, 2)


def test_replace_leaves_nothing_of_before(collections: Collections) -> None:
    collections.replace("faq", "e5", [stored("a"), stored("b")])
    assert collections.replace("faq", "other", [stored("c")]).revision == 2
    summary, entries = collections.load("faq")
    assert (summary.model, [each.entry.id for each in entries]) == ("other", ["c"])


def test_remove_and_delete(collections: Collections) -> None:
    collections.replace("faq", "e5", [stored("a"), stored("b")])
    assert collections.remove("faq", "a").entries == 1
    with pytest.raises(UnknownEntry, match="no entry a"):
        collections.remove("faq", "a")
    collections.delete("faq")
    assert collections.all() == ()
    with pytest.raises(UnknownCollection, match="no collection is called faq"):
        collections.load("faq")


@pytest.mark.parametrize("change", ["get", "delete"])
def test_an_unknown_collection_is_refused(collections: Collections, change: str) -> None:
    with pytest.raises(UnknownCollection):
        getattr(collections, change)("faq")


def test_vectors_of_a_changed_collection_are_not_kept(collections: Collections) -> None:
    collections.replace("faq", "e5", [stored("a", seen=False)])
    collections.put("faq", [stored("b")])
    assert not collections.keep("faq", 1, [stored("a")])
    assert collections.load("faq")[1][0].vector is None
    assert collections.keep("faq", 2, [stored("a")])
    assert collections.load("faq")[1][0].vector is not None
    assert collections.get("faq").revision == 2, "vectors are no change of what the shop wrote"


def test_a_full_collection_stays_as_it_was(collections: Collections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)
    collections.replace("faq", "e5", [stored("a"), stored("b")])
    with pytest.raises(CollectionFull, match="at most 2 entries"):
        collections.put("faq", [stored("a", "new"), stored("c")])
    summary, entries = collections.load("faq")
    assert (summary.revision, [each.entry.answer for each in entries]) == (1, ["answer", "answer"])


def test_a_full_box_takes_no_other_collection(collections: Collections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLLECTIONS_MAX", 1)
    collections.replace("faq", "e5", [stored("a")])
    collections.replace("faq", "e5", [stored("b")])
    with pytest.raises(CollectionFull, match="at most 1 collections"):
        collections.replace("other", "e5", [stored("a")])


def test_a_table_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    before = Collections(tmp_path, HeldClock())
    before.replace("faq", "e5", [stored("a")])
    before.close()
    with sqlite3.connect(tmp_path / "collections.db") as database:
        database.execute("ALTER TABLE entries RENAME COLUMN vector TO vectors")
        database.execute("ALTER TABLE entries ADD COLUMN views INTEGER")
        database.execute("PRAGMA user_version = 0")
    database.close()
    after = Collections(tmp_path, HeldClock())
    assert after.load("faq")[1] == (Stored(stored("a").entry, None),), "made anew when it is searched next"
    after.replace("faq", "e5", [stored("b")])
    after.close()


def test_opening_again_rewrites_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        Collections(tmp_path, HeldClock()).close()
    with sqlite3.connect(tmp_path / "collections.db") as database:
        before = database.execute("PRAGMA schema_version").fetchone()
        Collections(tmp_path, HeldClock()).close()
        assert database.execute("PRAGMA schema_version").fetchone() == before
    database.close()
