"""`python -m tests.bench` (make bench): our decoder beside llama.cpp, in turns. `peers` builds them first."""

import argparse
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from appliance.engine.settings import EngineSettings, physical_cores
from quantize.sources.checkpoint import SourceError
from tests.bench import measure, peers, table
from tests.bench.llama_cpp import PeerFailed
from tests.bench.ours import Lane, lanes_of, open_package
from tests.bench.statistics import Load, Row

MODEL = "smollm2-135m-instruct"


def main(arguments: Sequence[str] | None = None) -> int:
    """The process's exit code: 1 if a bound is missed, 2 if it could not be measured."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Peers' servers end with us, however we are ended.
    try:
        if given.command == "peers":
            files = peers.make_gguf(peers.build_llama_cpp(given.peers), given.peers)
            print(f"llama.cpp is built, with {', '.join(files)}")
            return 0
        return _run(given)
    except (peers.BuildError, PeerFailed, SourceError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(given: argparse.Namespace) -> int:
    threads = physical_cores()
    package = open_package(given.store, MODEL)
    names = lanes_of(package, EngineSettings(threads=threads))
    lanes = [Lane(package, name, threads) for name in names if given.lane in (None, name)]
    known = peers.find_llama_cpp(threads, given.peers)
    timed = [peer for peer in known if peer.name != "llama.cpp F32"]
    measured = measure.Measured()
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("")
        measure.measure_quality(
            lanes,
            known,
            given.out.parent / "perplexity.txt",
            measured,
            lambda what: progress.update(bar, description=what),
        )
        for number in range(given.rounds):

            def say(what: str, number: int = number) -> None:
                progress.update(bar, description=f"round {number + 1} of {given.rounds}: {what}")

            measure.measure_speed(lanes, timed, measured, say)
            if not given.quick:
                measure.measure_answers(lanes, timed, measured, say)
    rows = list(measure.rows_of(measured, [lane.name for lane in lanes], [peer.name for peer in timed]))
    rows += [Row(Load("all", ""), "", None, name, None, fair=False, why=why) for name, why in peers.NOT_RUN.items()]
    about = {
        "machine": platform.processor() or platform.machine(),
        "threads": threads,
        "package": f"{package.manifest.name} {package.manifest.version}",
        "perplexity": measured.perplexity,
        "peers": {peer.name: {"version": peer.version(), "flags": peer.flags()} for peer in timed},
    }
    table.write_json(given.out, rows, about)
    if given.json:
        print(table.as_json(rows, about))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table.draw_table(rows))
    return int(any(row.missed for row in rows) and not given.no_fail)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "peers"), default="run")
    parser.add_argument("--store", type=Path, default=Path(".nukkad/box/store"), help="where the packages are")
    parser.add_argument("--peers", type=Path, default=peers.PEERS, help="where the peers are built")
    parser.add_argument("--out", type=Path, default=peers.ROOT / "build" / "bench.json")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lane", help="only this lane of ours")
    parser.add_argument("--quick", action="store_true", help="only prefill and decoding")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-fail", action="store_true", help="exit 0 even if a bound is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
