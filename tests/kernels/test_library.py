import platform
from pathlib import Path

import pytest

from kernels.compile import CompileError, compile_all, variants_of
from kernels.library import NoLibrary, find_library, read_features, usable_variants

AVX2 = "fpu avx2 fma f16c bmi1 bmi2 movbe abm"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni"


@pytest.mark.parametrize(
    ("machine", "features", "usable"),
    [
        ("x86_64", AVX512, ("avx512", "avx2", "plain")),
        ("x86_64", AVX512.replace(" avx512_vnni", ""), ("avx2", "plain")),
        ("x86_64", "fpu sse2", ("plain",)),
        ("aarch64", "fp asimd asimddp", ("dotprod", "plain")),
        ("aarch64", "fp asimd", ("plain",)),
        ("riscv64", "", ("plain",)),
    ],
)
def test_a_processor_runs_what_its_features_allow(machine: str, features: str, usable: tuple[str, ...]) -> None:
    assert usable_variants(frozenset(features.split()), machine) == usable


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx2\n", "Features\t: fpu avx2\n"])
def test_features_are_read_as_linux_tells_them(tmp_path: Path, line: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\n{line}")
    assert read_features(path) == {"fpu", "avx2"}
    assert read_features(tmp_path / "none") == frozenset()


def test_the_best_variant_that_is_there_is_found(tmp_path: Path) -> None:
    with pytest.raises(NoLibrary, match=r"python -m kernels\.compile"):
        find_library(tmp_path)
    for name in reversed(usable_variants(read_features(), platform.machine())):
        (tmp_path / f"{name}.so").touch()
        assert find_library(tmp_path).stem == name


def test_every_variant_has_a_name_that_is_known() -> None:
    for machine in ("x86_64", "aarch64", "anything"):
        assert "plain" in variants_of(machine)


def test_without_a_working_compiler_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(CompileError, match="failed"):
        compile_all(tmp_path)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="no C compiler"):
        compile_all(tmp_path)
    assert list(tmp_path.iterdir()) == []
