from pathlib import Path

import pytest

from models.layout import pack
from tests.support.tiny_package import write_tiny_package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a tiny package."""
    return write_tiny_package(tmp_path / "files")


@pytest.fixture
def layout(tmp_path: Path, folder: Path) -> Path:
    """The same, packed."""
    pack(folder, tmp_path / "layout")
    return tmp_path / "layout"
