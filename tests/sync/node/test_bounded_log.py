from pathlib import Path

from sync.node.bounded_log import BoundedLog


def kept(path: Path) -> bytes:
    return b"".join(one.read_bytes() for one in (path.with_name("a.log.1"), path) if one.exists())


def test_the_newest_lines_are_kept_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    lines = [b"%05d\n" % number for number in range(1000)]
    log = BoundedLog(path, 600)
    for line in lines:
        log.write(line)
        assert len(kept(path)) <= 600
    assert b"".join(lines).endswith(kept(path)) and len(kept(path)) >= 300
    log.close()
    again = BoundedLog(path, 600)  # As after a restart: what was there stays, until it is too much.
    before = kept(path)
    again.write(b"more\n")
    assert kept(path).endswith(before[-200:] + b"more\n")
    again.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.log", "a.log.1"]


def test_a_file_that_was_too_big_before_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"x" * 5000)
    log = BoundedLog(path, 600)
    log.write(b"new\n")
    log.close()
    assert path.read_bytes() == b"new\n"


def test_a_disk_that_fails_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    log = BoundedLog(tmp_path / "gone" / "a.log", 600)
    (tmp_path / "gone").rmdir()
    log.write(b"lost\n")
    (tmp_path / "gone").mkdir()
    log.write(b"kept\n")
    log.close()
    assert (tmp_path / "gone" / "a.log").read_bytes() == b"kept\n"
