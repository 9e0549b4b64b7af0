"""Which compiled variant of the operators this processor runs best."""

import platform
from pathlib import Path

from kernels.compile import COMPILED, variants_of

CPU_INFO = Path("/proc/cpuinfo")
DOMAIN = "nukkad"

# What the kernel must say of a processor before a variant may run on it.
_NEEDED = {
    "avx512": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx2": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"},
    "dotprod": {"asimddp"},
    "plain": set(),
}


class NoLibrary(Exception):
    """The operators are not compiled for this processor."""


def read_features(cpu_info: Path = CPU_INFO) -> frozenset[str]:
    """The processor's features as Linux names them; none where it does not say."""
    if not cpu_info.is_file():
        return frozenset()
    for line in cpu_info.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def usable_variants(features: frozenset[str], machine: str) -> tuple[str, ...]:
    """Names of the variants that a processor with these features runs, the best first."""
    return tuple(name for name in variants_of(machine) if features >= _NEEDED[name])


def find_library(folder: Path = COMPILED) -> Path:
    """The best compiled variant for this processor. Raises NoLibrary."""
    for name in usable_variants(read_features(), platform.machine()):
        if (path := folder / f"{name}.so").is_file():
            return path
    raise NoLibrary(f"no operators in {folder}: compile them with python -m kernels.compile")
