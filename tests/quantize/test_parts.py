from pathlib import Path

import numpy as np
import onnx

from quantize.graphs.parts import FLOAT, INT64, Graph, WeightsFile
from quantize.running import open_session


def write(folder: Path) -> Path:
    folder.mkdir()
    table = np.arange(4000, dtype=np.float32).reshape(40, 100)
    with WeightsFile(folder / "shared") as shared, WeightsFile(folder / "own") as own:
        graph = Graph("sum", shared, own)
        graph.input("ids", INT64, ["T"])
        graph.output("out", FLOAT, ["T", 100])
        first = graph.one("Gather", graph.constant(table, shared=True), "ids", axis=0)
        again = graph.one("Gather", graph.constant(table.reshape(20, 200), shared=True), "ids", axis=0)
        half = graph.one("Slice", again, graph.integers(0), graph.integers(100), graph.integers(1))
        other = graph.one("Mul", first, graph.constant(np.full((1, 400), 2, np.float32)[:, :100] + table[:1]))
        graph.node("Sum", [first, half, graph.one("Mul", other, graph.number(0))], ["out"])
        graph.save(folder / "graph.onnx")
    return folder / "graph.onnx"


def test_the_same_bytes_are_kept_once_whatever_their_shape(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    assert (tmp_path / "a" / "shared").stat().st_size == 16000
    model = onnx.load(path, load_external_data=False)
    places = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.external_data
    ]
    assert [place["location"] for place in places].count("shared") == 2
    assert all(int(place["offset"]) % 4096 == 0 for place in places)
    ids = np.array([0, 3], np.int64)
    table = np.arange(4000, dtype=np.float32).reshape(40, 100)
    (out,) = open_session(path, 1).run(None, {"ids": ids})
    assert np.array_equal(out, table[ids] + table.reshape(20, 200)[ids, :100])


def test_the_same_steps_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    for name in ("graph.onnx", "shared", "own"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()


def test_weights_start_on_a_page_and_are_found_where_the_file_says(tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "w") as file:
        first = file.add(np.full(5, 7, np.uint8))
        second = file.add(np.full(5, 8, np.uint8))
        assert file.add(np.full(5, 7, np.uint8)) == first
    assert (first, second) == ((0, 5), (4096, 5))
    assert (tmp_path / "w").read_bytes()[4096:] == bytes([8] * 5)
