"""Installing into and removing from a system that does not run."""

import fcntl
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.conftest import install
from tests.support.machine import ROOT, wheels

pytestmark = pytest.mark.system


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy that may be taken apart; its files are the same ones, so they may be removed but not written into."""
    subprocess.run(["cp", "-al", str(tree), str(tmp_path / "system")], check=True)
    yield tmp_path / "system"
    shutil.rmtree(tmp_path / "system")


def owner(tree: Path, path: str) -> tuple[str, str, int]:
    status = (tree / path).stat()
    users = {line.split(":")[2]: line.split(":")[0] for line in (tree / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[2]: line.split(":")[0] for line in (tree / "etc/group").read_text().splitlines()}
    return users[str(status.st_uid)], groups[str(status.st_gid)], stat.S_IMODE(status.st_mode)


def uninstall(tree: Path, *words: str) -> str:
    script = str(ROOT / "packaging/uninstall.sh")
    return subprocess.run([script, "--root", str(tree), *words], check=True, capture_output=True, text=True).stdout


def test_everything_is_in_its_place(tree: Path) -> None:
    current = str((tree / "opt/nukkad/current").readlink())
    (release,) = (tree / "opt/nukkad/releases").iterdir()
    assert current == f"/opt/nukkad/releases/{release.name}"
    assert (release / "complete").exists() and (release / "LICENSE").exists()
    for unit in ("nukkad.service", "nukkad-node.service"):
        assert (release / "systemd" / unit).read_bytes() == (tree / "etc/systemd/system" / unit).read_bytes()
    assert (release / "nukkad.sh").read_bytes() == (tree / "usr/local/bin/nukkad").read_bytes()
    assert (tree / "usr/local/bin/nukkad").stat().st_mode & 0o111 == 0o111
    assert not (release / "source").exists() and not (release / "wheels").exists()
    for unit in ("nukkad.service", "nukkad-node.service"):
        link = tree / "etc/systemd/system/multi-user.target.wants" / unit
        assert str(link.readlink()) == f"/etc/systemd/system/{unit}"
    assert owner(tree, "var/lib/nukkad/box") == ("nukkad", "nukkad", 0o700)
    assert owner(tree, "var/lib/nukkad/node") == ("nukkad-node", "nukkad-node", 0o700)
    assert owner(tree, "etc/nukkad/box.env") == ("root", "nukkad", 0o640)
    assert owner(tree, "etc/nukkad/node.env") == ("root", "nukkad-node", 0o640)
    assert owner(tree, "opt/nukkad")[0] == "root"


def test_the_program_belongs_to_root_alone(tree: Path) -> None:
    writable = subprocess.run(
        ["find", str(tree / "opt/nukkad"), "!", "-type", "l", "(", "-perm", "/022", "-o", "!", "-user", "root", ")"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert writable == ""


def test_installing_again_does_nothing_twice(source: Path, tree: Path) -> None:
    assert "is complete already" in install(source, tree)


def test_a_release_that_a_process_runs_is_never_removed(source: Path, copy: Path) -> None:
    """As after two installs with --no-start: the services still run the one before the one before."""
    releases = copy / "opt/nukkad/releases"
    for name in ("0.0.1-running", "0.0.2-unused"):
        (releases / name).mkdir()
        shutil.copy("/bin/sleep", releases / name / "sleep")
    with subprocess.Popen([str(releases / "0.0.1-running/sleep"), "600"]) as service:
        try:
            install(source, copy)
        finally:
            service.kill()
    assert (releases / "0.0.1-running/sleep").exists()
    assert not (releases / "0.0.2-unused").exists()
    install(source, copy)
    assert not (releases / "0.0.1-running").exists()


def test_a_node_that_is_set_up_is_upgraded_without_being_named(source: Path, copy: Path) -> None:
    words = ["--wheels", str(wheels()), "--root", str(copy)]
    done = subprocess.run([str(source / "packaging/install.sh"), *words], check=True, capture_output=True, text=True)
    assert "nukkad.service nukkad-node.service" in done.stdout


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_two_at_once_are_kept_apart(source: Path, copy: Path, script: str) -> None:
    words = ["--root", str(copy)]
    with (copy / "opt/nukkad/install.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run([str(source / "packaging" / script), *words], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "another install or uninstall is at work" in done.stderr and "next: wait" in done.stderr
    assert (copy / "opt/nukkad/current").is_symlink()


def test_a_half_built_release_is_never_switched_to(source: Path, copy: Path, tmp_path: Path) -> None:
    before = str((copy / "opt/nukkad/current").readlink())
    (tmp_path / "no-wheels").mkdir()
    changed = tmp_path / "source"
    subprocess.run(["cp", "-a", str(source), str(changed)], check=True)
    (changed / "README.md").write_text("another\n")
    words = ["--wheels", str(tmp_path / "no-wheels"), "--root", str(copy)]
    done = subprocess.run([str(changed / "packaging/install.sh"), *words], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "install: the Python packages could not be installed" in done.stderr
    assert "next: check the network or use --wheels" in done.stderr
    assert str((copy / "opt/nukkad/current").readlink()) == before


def test_uninstall_keeps_the_data_and_says_where(copy: Path) -> None:
    (copy / "var/lib/nukkad/box/ledger.db").write_text("records")
    told = uninstall(copy)
    assert "var/lib/nukkad" in told and "etc/nukkad" in told
    assert (copy / "var/lib/nukkad/box/ledger.db").read_text() == "records"
    assert owner(copy, "var/lib/nukkad/box")[0] == "nukkad"
    assert (copy / "etc/nukkad/box.env").exists()
    left = subprocess.run(
        ["find", str(copy / "opt"), str(copy / "etc"), str(copy / "usr/local"), "-name", "*nukkad*"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert left == [str(copy / "etc/nukkad")]
    assert uninstall(copy) == told


def test_purging_deletes_data_and_users(copy: Path) -> None:
    uninstall(copy, "--purge-data")
    assert not (copy / "var/lib/nukkad").exists()
    assert not (copy / "etc/nukkad").exists()
    assert "nukkad" not in (copy / "etc/passwd").read_text()
