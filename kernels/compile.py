"""Compiles the operators, once for every kind of processor that this machine's compiler can make code for.

`python -m kernels.compile` needs a C compiler and nothing else, for it runs before anything is installed.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
COMPILED = Path(__file__).parent / "compiled"
# Level 3 for speed; expressions are contracted to fused multiply-adds alike in every copy of a loop.
FLAGS = ("-std=gnu11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi")

# By machine, the best first: name of the variant and what the compiler is told.
VARIANTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "x86_64": {"avx512": ("-march=x86-64-v4", "-mavx512vnni"), "avx2": ("-march=x86-64-v3",), "plain": ()},
    "aarch64": {"dotprod": ("-march=armv8.2-a+dotprod",), "plain": ()},
}
OTHER: Mapping[str, tuple[str, ...]] = {"plain": ()}


class CompileError(Exception):
    """No compiler, or it failed. The message says what to do."""


def variants_of(machine: str) -> Mapping[str, tuple[str, ...]]:
    return VARIANTS.get(machine, OTHER)


def compile_all(out: Path = COMPILED, machine: str | None = None) -> list[Path]:
    """One shared library per variant, each in place whole or not at all. Raises CompileError."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise CompileError("there is no C compiler: install one (apt-get install gcc libc6-dev)")
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, flags in variants_of(machine or platform.machine()).items():
        target, unfinished = out / f"{name}.so", out / f".{name}.so"
        sources = sorted(str(path) for path in SOURCE.glob("*.c"))
        command = [*compiler.split(), *FLAGS, *flags, "-o", str(unfinished), *sources, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if done.returncode:
            raise CompileError(f"{' '.join(command)} failed:\n{done.stderr}")
        unfinished.replace(target)
        made.append(target)
    return made


def main() -> None:
    try:
        made = compile_all()
    except CompileError as error:
        sys.exit(f"{error}\nNukkad works without its own operators, on ONNX Runtime's, at a third of the speed.")
    print(f"compiled {', '.join(path.stem for path in made)}")


if __name__ == "__main__":
    main()
