import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny_models
from tests.support.machine import ROOT, Machine, unpack_system, wheels

PARTS = (
    "appliance",
    "kernels",
    "models",
    "quantize",
    "sync",
    "packaging",
    "locks",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree as an operator would unpack it."""
    folder = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="session")
def tree(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A minimal Debian with box and node installed, not running."""
    folder = tmp_path_factory.mktemp("tree") / "system"
    unpack_system(folder)
    install(source, folder)
    yield folder
    shutil.rmtree(folder)  # pytest would keep most of a gigabyte for each of the last three runs


def install(source: Path, tree: Path, *words: str) -> str:
    """Runs the install script for the system in a folder, without a network."""
    command = [
        str(source / "packaging/install.sh"),
        "--with-node",
        "--wheels",
        str(wheels()),
        "--root",
        str(tree),
        *words,
    ]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def machine(tree: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The same Debian, booted, with three tiny models in the box's store. It has no network but loopback."""
    folder = tmp_path_factory.mktemp("machine") / "system"
    subprocess.run(["cp", "-a", str(tree), str(folder)], check=True)
    tiny_models.install_all(folder / "var/lib/nukkad/box/store", tmp_path_factory.mktemp("models"))
    subprocess.run(["chroot", str(folder), "chown", "-R", "nukkad:nukkad", "/var/lib/nukkad/box"], check=True)
    shutil.copytree(source, folder / "srv/source")
    shutil.copytree(wheels(), folder / "srv/wheels")
    with Machine(folder) as running:
        yield running
    shutil.rmtree(folder)
