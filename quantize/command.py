"""What `nukkad build` does and shows: bars on standard error, the result as a table or as JSON on standard output."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.errors import PackageError
from models.layout import pack
from models.store import Store
from quantize.build import build
from quantize.gate import BelowThreshold, Verdict
from quantize.progress import Progress as Report
from quantize.recipe import Recipe, RecipeError, find_recipe, read_recipe
from quantize.sources.checkpoint import SourceError


def run(recipe: str, *, out: Path | None, store: Path | None, cache: Path, threads: int, as_json: bool) -> bool:
    """Builds, packs and (if `store` is given) installs and activates; False when it was refused, having said why."""
    screen = Console(stderr=True)
    try:
        plan = read_recipe(find_recipe(recipe))
        if store is None and out is None:
            out = Path(plan.name)
        started = time.monotonic()
        with _bars(screen) as report:
            result = _make(plan, out=out, store=store, cache=cache, threads=threads, report=report)
        result["seconds"] = round(time.monotonic() - started, 1)
    except BelowThreshold as error:
        screen.print(_verdicts(error.verdicts), f"No package of {recipe}: a lane is worse than its recipe allows.")
        return False
    except (RecipeError, SourceError, PackageError, OSError) as error:
        screen.print(f"Could not build {recipe}: {error}", style="red", markup=False, highlight=False)
        return False
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        _print_result(result)
    return True


def _make(
    plan: Recipe, *, out: Path | None, store: Path | None, cache: Path, threads: int, report: Report
) -> dict[str, Any]:
    if out is not None and out.exists():  # Said before the minutes of work: what they will give is not known yet.
        raise RecipeError(f"--out: {out} is there already; choose another place or remove it first")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as scratch:
        folder = build(plan, Path(scratch) / "package", cache, report, threads)
        layout = out or Path(scratch) / "layout"
        report("packing", 0.0)
        digest = pack(folder, layout)
        report("packing", 1.0)
        if store is not None:
            report("installing", 0.0)
            package = Store(store).install(layout)
            Store(store).activate(plan.name, package.digest)
            report("installing", 1.0)
        return {
            "name": plan.name,
            "version": plan.version,
            "digest": digest,
            "layout": None if out is None else str(out),
            "store": None if store is None else str(store),
            "card": json.loads((folder / "card.json").read_text(encoding="utf-8")),
        }


@contextmanager
def _bars(screen: Console) -> Iterator[Report]:
    """One bar per kind of work, on standard error; a terminal that is none gets only the finished ones."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen) as bars:
        known: dict[str, TaskID] = {}

        def report(title: str, share: float) -> None:
            if title not in known:
                known[title] = bars.add_task(title, total=1.0)
            bars.update(known[title], completed=share)

        yield report


def _print_result(result: dict[str, Any]) -> None:
    console, card = Console(), result["card"]
    table = Table(title=f"{result['name']} {result['version']}, built in {result['seconds']} s")
    measures = [m for m in ("perplexity_rise", "agreement", "cosine_min", "cosine_mean") if m in card["lanes"]["fp32"]]
    for head in ("lane", "MB", *measures, "in the package"):
        table.add_column(head, justify="left" if head == "lane" else "right")
    for lane, entry in card["lanes"].items():
        size = f"{entry['bytes'] / 1e6:.0f}" if "bytes" in entry else "–"
        figures = ["–" if entry[measure] is None else f"{entry[measure]:.4f}" for measure in measures]
        table.add_row(lane, size, *figures, "yes" if entry["shipped"] else "no")
    console.print(table)
    for place in ("layout", "store"):
        if result[place]:
            console.print(f"{place}: {result[place]}", highlight=False)
    console.print(result["digest"], highlight=False)


def _verdicts(verdicts: tuple[Verdict, ...]) -> Table:
    table = Table("lane", "measure", "measured", "asked for", "")
    for verdict in verdicts:
        limit = "–" if verdict.limit is None else str(verdict.limit)
        table.add_row(
            verdict.lane, verdict.measure, f"{verdict.value:.4f}", limit, "ok" if verdict.passed else "failed"
        )
    return table
