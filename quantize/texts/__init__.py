"""Short texts about shop life, written for this project, on which every package is measured: one file per language."""

from pathlib import Path


def read_texts() -> dict[str, list[str]]:
    """Sentences by ISO 639 code of their language, in a fixed order."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(Path(__file__).parent.glob("*.txt"))
    }
