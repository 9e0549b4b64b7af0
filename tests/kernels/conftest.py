import platform
from pathlib import Path

import pytest

from kernels.compile import COMPILED, compile_all
from kernels.library import read_features, usable_variants
from tests.kernels.node import Operators

VARIANTS = usable_variants(read_features(), platform.machine())


@pytest.fixture(params=VARIANTS)
def operators(request: pytest.FixtureRequest) -> Operators:
    """Every variant that this processor can run, one after another."""
    library = COMPILED / f"{request.param}.so"
    if not library.is_file():
        compile_all()
    return Operators(library)


@pytest.fixture
def best(tmp_path: Path) -> Operators:
    library = COMPILED / f"{VARIANTS[0]}.so"
    if not library.is_file():
        compile_all()
    return Operators(library)
