"""The outcome for people, and as build/bench.json for programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.bench.statistics import Row


def draw_table(rows: Sequence[Row]) -> Table:
    table = Table("what", "unit", "lane", "ours: median (spread)", "peer", "theirs", "ratio", "at least", "note")
    shown = ""
    for row in rows:
        if shown and row.load.name != shown:
            table.add_section()
        shown = row.load.name
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        table.add_row(
            row.load.name,
            row.load.unit,
            row.lane,
            "not run" if row.ours is None else str(row.ours),
            row.peer_name,
            "not run" if row.peer is None else str(row.peer),
            f"[red]{ratio}[/red]" if row.missed else ratio,
            "" if row.at_least is None else f"{row.at_least:.2f}x",
            row.why,
        )
    return table


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    return json.dumps({"about": dict(about), "rows": [row.as_json() for row in rows]}, indent=1)


def write_json(path: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(as_json(rows, about), encoding="utf-8")
    unfinished.replace(path)
