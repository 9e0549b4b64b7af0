"""The lock files: hashes for everything, no addresses, and enough for the box to import without what was left out."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "locks" / "box.txt", ROOT / "locks" / "test.txt"]

IMPORT_ALL = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not in locks/box.txt", name=name)

sys.meta_path.insert(0, Absent())
for room in ("appliance", "models", "quantize", "sync"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.startswith("quantize.tune."):  # the workbench's own
            importlib.import_module(module.name)
"""


def requirements(lock: Path) -> dict[str, str]:
    """Name → the requirement's whole text."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text())
    return {block.partition("==")[0]: block for block in blocks if "==" in block}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_with_a_hash_and_no_address(lock: Path) -> None:
    found = requirements(lock)
    assert len(found) > 50
    for name, text in found.items():
        assert "--hash=sha256:" in text, name
    assert "://" not in lock.read_text()


def test_the_box_needs_no_torch() -> None:
    assert not {"torch", "transformers", "optimum"} & set(requirements(LOCKS[0]))


def test_both_locks_agree() -> None:
    box, test = (requirements(lock) for lock in LOCKS)
    assert {name: text for name, text in test.items() if name in box} == box


def licence(name: str) -> str | None:
    """All that a distribution says of its licence; None if it is not installed here."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return None
    said = [text for field in ("License-Expression", "License", "Classifier") for text in told.get_all(field) or []]
    return " ".join(text for text in said if "::" not in text or text.startswith("License ::"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_nothing_locked_is_under_a_licence_that_spreads(lock: Path) -> None:
    found = {name: told for name in requirements(lock) if (told := licence(name)) is not None}
    assert len(found) > 50
    assert all(found.values()), "a licence that is not told"
    gnu = {name: told for name, told in found.items() if re.search("GPL|GNU|General Public", told)}
    assert gnu == dict.fromkeys(("psycopg", "psycopg-binary", "psycopg-pool"), "LGPL-3.0-only")


def test_what_a_box_ships_that_is_not_permissive_is_named() -> None:
    _, _, section = (ROOT / "ARCHITECTURE.md").read_text("utf-8").partition("## Licences")
    there = {name for name in requirements(LOCKS[0]) if re.search("GPL|GNU|MPL|Mozilla", licence(name) or "")}
    assert there == {"psycopg", "psycopg-binary", "psycopg-pool", "certifi", "tqdm"}
    for name in there:
        assert name.partition("-")[0] in section


def test_every_module_imports_without_what_the_box_leaves_out() -> None:
    """Fails when a module of ours, or one it uses, needs torch or anything in locks/excluded-box.txt."""
    excluded = [
        line.strip() for line in (ROOT / "locks" / "excluded-box.txt").read_text().splitlines() if line[:1].isalnum()
    ]
    absent = {name.replace("-", "_") for name in excluded} | {
        "torch",
        "transformers",
        "optimum",
        "pytest",
        "playwright",
    }
    script = IMPORT_ALL.format(absent=absent)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
