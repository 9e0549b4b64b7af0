"""Tables on a narrow screen: nothing is cut, and a statement's row stays one line on 80 columns."""

import io

import pytest
from rich.console import Console

from sync.node.tables import make_table

HEADS = ("Day", "Meter", "Unit", ">Calls", ">Quantity", ">₹ per 1,000", ">₹")
ROW = ("2026-11-24", "embedding", "points_out", "10", "673", "0.004", "0.002692")


@pytest.mark.parametrize(("width", "lines"), [(80, 6), (50, None)])
def test_nothing_is_cut(width: int, lines: int | None) -> None:
    table = make_table(*HEADS)
    table.add_row(*ROW)
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    shown = out.getvalue()
    assert "…" not in shown
    assert lines is None or len(shown.splitlines()) == lines
