import json
from pathlib import Path

from rich.console import Console

from tests.bench.statistics import Load, Row, figure
from tests.bench.table import draw_table, write_json

ROWS = [
    Row(Load("decode", "tokens/s", 1.6), "k4", figure([100, 120, 110]), "llama.cpp Q8_0", figure([100])),
    Row(Load("all", ""), "", None, "ctranslate2", None, fair=False, why="it has no such model"),
]


def test_the_table_shows_a_peer_that_was_not_run_and_why() -> None:
    console = Console(width=200, record=True, quiet=True)
    console.quiet = False
    with console.capture() as shown:
        console.print(draw_table(ROWS))
    text = shown.get()
    assert "1.10x" in text
    assert "110 (100–120)" in text
    assert "it has no such model" in text
    assert "not run" in text


def test_the_json_has_a_row_for_each_with_what_a_program_needs(tmp_path: Path) -> None:
    write_json(tmp_path / "build" / "bench.json", ROWS, {"threads": 2})
    kept = json.loads((tmp_path / "build" / "bench.json").read_text(encoding="utf-8"))
    assert kept["about"] == {"threads": 2}
    first, second = kept["rows"]
    assert first == {
        "name": "decode",
        "unit": "tokens/s",
        "lane": "k4",
        "ours": {"median": 110, "least": 100, "most": 120},
        "peer": {"median": 100, "least": 100, "most": 100},
        "peer_name": "llama.cpp Q8_0",
        "ratio": 1.1,
        "at_least": 1.6,
        "missed": True,
        "why": "",
    }
    assert (second["ours"], second["peer"], second["why"]) == (None, None, "it has no such model")
