"""What must never be in the tree: paths of one machine, addresses of package indexes, big files, forgotten notes."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOB_BYTES_MAX = 5 * 1024 * 1024
WEIGHTS_BYTES_MAX = 20 * 1024 * 1024
WEIGHTS = {".onnx", ".bin", ".safetensors"}

# Written in pieces so that this file does not find itself.
MACHINE_PATH = re.compile("/" + r"(?:work|farm|root|home/[a-z]+)/[A-Za-z.]")
INDEX_HOST = re.compile(
    "(?:pypi"
    + r"\.org|files\.python"
    + r"hosted\.org|registry\.npm"
    + r"js\.org|deb\.deb"
    + r"ian\.org|download\.pytorch"
    + r"\.org)"
    "|--(?:extra-)?index-url"
)
LEFTOVER = re.compile(r"\b(?:FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")


def tracked() -> list[Path]:
    """Every file git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if pattern.search(line)
        ]
    return found


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, INDEX_HOST, LEFTOVER], ids=["machine path", "index host", "leftover note"]
)
def test_no_line_holds(pattern: re.Pattern[str]) -> None:
    assert lines_matching(pattern) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (MACHINE_PATH, "cd /" + "root/project"),
        (INDEX_HOST, "https://pypi" + ".org/simple"),
        (INDEX_HOST, "pip install --" + "index-url x"),
        (LEFTOVER, "# FIX" + "ME later"),
    ],
)
def test_the_patterns_can_find(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)


def test_no_big_file_but_weights_that_a_card_names() -> None:
    cards = "".join(path.read_text(encoding="utf-8") for path in tracked() if path.name == "card.md")
    for path in tracked():
        size = path.stat().st_size
        if path.suffix in WEIGHTS and path.name in cards:
            assert size <= WEIGHTS_BYTES_MAX, path
        else:
            assert size <= BLOB_BYTES_MAX, path


def test_packaging_is_no_import_package() -> None:
    """A folder named `packaging` with an __init__ would shadow the library of that name."""
    assert not (ROOT / "packaging" / "__init__.py").exists()
