"""What several rooms' tests share: the starter packages, built once a run from the recipes and kept nowhere else."""

import os
from pathlib import Path

import pytest

from models.layout import pack
from models.store import Store
from quantize.build import build
from quantize.progress import ignore_progress
from quantize.recipe import find_recipe, read_recipe
from quantize.sources.checkpoint import Checkpoint
from quantize.sources.read import read_source

ROOT = Path(__file__).parent.parent
STARTERS = ("multilingual-e5-small", "shop-search-e5-small", "smollm2-135m-instruct")
SCRIPTS = ("ben", "eng", "guj", "hin", "kan", "mal", "mar", "pan", "tam", "tel", "urd")


@pytest.fixture(scope="session")
def cache() -> Path:
    """Fetched wheels are kept where `nukkad build` keeps them."""
    return Path(os.environ.get("NUKKAD_CACHE", ROOT / ".nukkad" / "cache"))


class Starters:
    """The starter packages and their checkpoints, each made once."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache
        self._packages: dict[str, Path] = {}
        self._checkpoints: dict[str, Checkpoint] = {}

    def package(self, name: str) -> Path:
        if name not in self._packages:
            self._packages[name] = build(read_recipe(find_recipe(name)), self._folder / name, self._cache)
        return self._packages[name]

    def checkpoint(self, name: str) -> Checkpoint:
        if name not in self._checkpoints:
            scratch = self._folder / f"{name}-source"
            scratch.mkdir()
            recipe = read_recipe(find_recipe(name))
            self._checkpoints[name] = read_source(recipe, scratch, self._cache, ignore_progress)[0]
        return self._checkpoints[name]

    def source_folder(self, name: str) -> Path:
        """Where the files of a checkpoint's source lie."""
        self.checkpoint(name)
        return self._folder / f"{name}-source"


@pytest.fixture(scope="session")
def starters(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Starters:
    return Starters(tmp_path_factory.mktemp("starters"), cache)


@pytest.fixture(scope="session")
def starter_store(starters: Starters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a store in which the starters serve."""
    folder = tmp_path_factory.mktemp("starter-store")
    store = Store(folder / "store")
    for name in STARTERS:
        pack(starters.package(name), folder / name)
        package = store.install(folder / name)
        store.activate(package.name, package.digest)
    return folder / "store"


@pytest.fixture(scope="session")
def lines() -> dict[str, list[str]]:
    """1,000 lines of news in each script, from the data that lie beside the project."""
    folder = ROOT.parent / "shared" / "data" / "ntrex128"
    return {script: (folder / f"{script}.txt").read_text(encoding="utf-8").splitlines()[:1000] for script in SCRIPTS}
