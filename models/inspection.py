"""Untrusted ONNX graphs are checked in a killable child process before a package may be installed."""

import json
import subprocess
import sys
from pathlib import Path

from models.errors import UnsafeModel
from models.files import open_regular
from models.manifest import Lane, Manifest

GRAPH_BYTES_MAX = 64 << 20  # weights belong in files of their own; 64 MiB of graph is already strange
MEMORY_BYTES_MAX = 3 << 30
CPU_S_MAX = 60
WALL_S_MAX = 120
_CHECKER = Path(__file__).with_name("graph_checker.py")


def inspect_package(folder: Path, manifest: Manifest) -> None:
    """Check the graph of every lane in a folder of package files. Raises UnsafeModel: which graph, and why."""
    for lane in manifest.lanes.values():
        inspect_graph(folder, lane)


def inspect_graph(
    folder: Path, lane: Lane, memory_bytes: int = MEMORY_BYTES_MAX, cpu_s: int = CPU_S_MAX, wall_s: float = WALL_S_MAX
) -> None:
    """Check one lane's graph; its weights are looked at by size only. Raises UnsafeModel."""
    size = (folder / lane.graph).stat().st_size
    if size > GRAPH_BYTES_MAX:
        raise UnsafeModel(
            f"{lane.graph}: {size} bytes; keep weights in their own file, a graph has at most {GRAPH_BYTES_MAX}"
        )
    weights = {name: (folder / name).stat().st_size for name in lane.weights}
    task = json.dumps({"weights": weights, "memory_bytes": memory_bytes, "cpu_s": cpu_s})
    with open_regular(folder / lane.graph) as graph:
        try:
            # -I: no environment, no current folder, no user site. The child is given bytes, never a path.
            child = subprocess.run(  # noqa: S603 - both words of the command are our own
                [sys.executable, "-I", str(_CHECKER), task],
                stdin=graph,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=wall_s,
                cwd="/",
                env={"OPENBLAS_NUM_THREADS": "1"},  # each thread would reserve memory that counts against the limit
            )
        except subprocess.TimeoutExpired as error:
            raise UnsafeModel(f"{lane.graph}: still being checked after {wall_s:g} s; refused") from error
    if child.returncode != 0:
        raise UnsafeModel(
            f"{lane.graph}: broke its checker or its limits of memory and time (status {child.returncode}); refused"
        )
    verdict = json.loads(child.stdout)
    if "refused" in verdict:
        raise UnsafeModel(f"{lane.graph}: {verdict['refused']}")
