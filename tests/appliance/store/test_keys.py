"""API keys: told once, kept as a hash, gone from the moment they are revoked."""

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from appliance.store.database import FILE_NAME, DatabaseError, open_database
from appliance.store.keys import KeyRefused, Keys
from tests.support.held_clock import HeldClock


@pytest.fixture
def database(tmp_path: Path) -> Iterator[apsw.Connection]:
    opened = open_database(tmp_path / "state", HeldClock())
    yield opened
    opened.close()


@pytest.fixture
def keys(database: apsw.Connection) -> Keys:
    return Keys(database, HeldClock())


def test_a_key_opens_until_it_is_revoked(keys: Keys) -> None:
    key, secret = keys.create("counter")
    assert keys.find(secret) == key
    assert keys.find(secret[:-1]) is None
    assert keys.find("") is None
    revoked = keys.revoke(key.id)
    assert revoked.revoked_ms is not None
    assert keys.find(secret) is None
    assert keys.revoke(key.id) == revoked
    assert keys.all() == [revoked]


def test_a_database_that_was_lost_gives_no_key_the_id_of_an_older_one(keys: Keys, tmp_path: Path) -> None:
    assert keys.create("first")[0].id == 1
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "ledger-1.db").touch()
    clock = HeldClock()
    again = open_database(moved, clock)
    assert Keys(again, clock).create("later")[0].id == clock.wall_ms() // 1000 + 1
    again.close()


def test_a_secret_has_256_random_bits_and_stands_nowhere_on_the_disk(keys: Keys, tmp_path: Path) -> None:
    secrets = [keys.create("counter")[1] for _ in range(20)]
    assert len(set(secrets)) == 20
    assert all(secret.startswith("nk_") and len(bytes.fromhex(secret[3:])) == 32 for secret in secrets)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert all(secret[9:].encode() not in kept and bytes.fromhex(secret[3:]) not in kept for secret in secrets)
    assert secrets[0][:9].encode() in kept  # The hint is there: the search above can find.


def test_another_process_sees_a_new_key_and_a_revoked_one_at_once(keys: Keys, tmp_path: Path) -> None:
    other = Keys(open_database(tmp_path / "state", HeldClock()), HeldClock())
    key, secret = other.create("made by a command")
    assert keys.find(secret) == key
    other.revoke(key.id)
    assert keys.find(secret) is None


@pytest.mark.parametrize("name", ["", "  ", "a" * 65, "a\nb", "\x00"])
def test_a_bad_name_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(KeyRefused, match="name"):
        keys.create(name)


def test_an_unknown_id_is_refused(keys: Keys) -> None:
    with pytest.raises(KeyRefused, match="keys list"):
        keys.revoke(99)


def test_folder_and_file_are_private(database: apsw.Connection, tmp_path: Path) -> None:
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_what_is_no_database_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(DatabaseError, match="move it aside"):
        open_database(tmp_path, HeldClock())
    newer = tmp_path / "newer"
    database = open_database(newer, HeldClock())
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DatabaseError, match="format 99"):
        open_database(newer, HeldClock())
