from pathlib import Path

import numpy as np
import pytest

from quantize.graphs.parts import FLOAT, INT64, Graph, WeightsFile
from quantize.lower import LOWERINGS
from quantize.rounding import quantize_blocks
from quantize.running import open_session
from quantize.sources.checkpoint import Q4, Floats, Tensor

LANES = sorted(LOWERINGS)
# Error allowed beside the exact product, root mean square, as a share of the product's own spread.
TOLERANCE = {"fp32": 1e-6, "q8": 0.012, "int8": 0.015, "q4": 0.1}


def random_matrix(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def random_q4(rows: int, columns: int, *, centred: bool, seed: int = 0) -> Q4:
    draw = np.random.default_rng(seed)
    scale = draw.uniform(0.01, 0.1, (rows, columns // 32)).astype(np.float32)
    low = np.float32(-8) * scale if centred else draw.uniform(-1, 0.2, scale.shape).astype(np.float32)
    return Q4(draw.integers(0, 16, (rows, columns // 32, 32), dtype=np.uint8), scale, low)


def multiply(folder: Path, lane: str, weight: Tensor, values: Floats) -> Floats:
    with WeightsFile(folder / "shared") as shared, WeightsFile(folder / "own") as own:
        graph = Graph("product", shared, own)
        lowering = LOWERINGS[lane](graph)
        graph.input("x", FLOAT, ["T", weight.shape[1]])
        graph.output("y", FLOAT, ["T", weight.shape[0]])
        graph.node("Identity", [lowering.multiply(lowering.rows("x"), weight)], ["y"])
        graph.save(folder / "graph.onnx")
    result: Floats = open_session(folder / "graph.onnx", 1).run(None, {"x": values})[0]
    return result


def look_up(folder: Path, lane: str, weight: Tensor, ids: list[int]) -> Floats:
    with WeightsFile(folder / "shared") as shared, WeightsFile(folder / "own") as own:
        graph = Graph("table", shared, own)
        graph.input("ids", INT64, ["T"])
        graph.output("y", FLOAT, ["T", weight.shape[1]])
        graph.node("Identity", [LOWERINGS[lane](graph).table("ids", weight)], ["y"])
        graph.save(folder / "graph.onnx")
    result: Floats = open_session(folder / "graph.onnx", 1).run(None, {"ids": np.array(ids, np.int64)})[0]
    return result


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_s_product_is_near_the_exact_one(lane: str, tmp_path: Path) -> None:
    weight, values = random_matrix(96, 128), random_matrix(7, 128, seed=1)
    exact = values @ weight.T
    assert (multiply(tmp_path, lane, weight, values) - exact).std() < TOLERANCE[lane] * exact.std()


@pytest.mark.parametrize("lane", LANES)
def test_each_row_s_product_is_the_same_whatever_its_neighbours(lane: str, tmp_path: Path) -> None:
    weight, values = random_matrix(96, 128), random_matrix(5, 128, seed=1)
    values[3] *= 1000  # One scale for the whole batch would wipe out the others.
    together = multiply(tmp_path, lane, weight, values)
    alone = np.concatenate([multiply(tmp_path, lane, weight, values[row : row + 1]) for row in range(5)])
    assert np.allclose(together, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max(axis=1).min())


@pytest.mark.parametrize("lane", LANES)
def test_a_fine_head_bears_a_number_a_thousand_times_the_others(lane: str, tmp_path: Path) -> None:
    weight, values = random_matrix(96, 128), random_matrix(4, 128, seed=1)
    values[:2, 70] = 2000
    errors = {}
    for fine in (False, True):
        with WeightsFile(tmp_path / "shared") as shared, WeightsFile(tmp_path / "own") as own:
            graph = Graph("head", shared, own)
            graph.input("x", FLOAT, ["R", 128])
            graph.output("y", FLOAT, ["R", 96])
            graph.node("Identity", [LOWERINGS[lane](graph).head("x", weight, fine=fine)], ["y"])
            graph.save(tmp_path / "graph.onnx")
        session = open_session(tmp_path / "graph.onnx", 1)
        logits = session.run(None, {"x": values})[0]
        assert session.run(None, {"x": values[:0]})[0].shape == (0, 96)
        # What the large number itself adds carries the weights' own rounding, so it is left out of the comparison.
        codes, scale = quantize_blocks(weight, 32 if fine else 64)
        kept = ((codes.astype(np.float32) - 128) * scale[:, :, None]).reshape(weight.shape)
        errors[fine] = np.abs(logits - values @ (weight if lane == "fp32" else kept).T).max()
    assert errors[True] < (0.1 if lane != "fp32" else 1e-2)
    assert lane == "fp32" or errors[False] > 10 * errors[True]


@pytest.mark.parametrize("lane", LANES)
def test_a_row_of_zeros_gives_zeros(lane: str, tmp_path: Path) -> None:
    assert not multiply(tmp_path, lane, random_matrix(32, 64), np.zeros((2, 64), np.float32)).any()


@pytest.mark.parametrize("centred", [True, False])
def test_the_4_bit_lane_keeps_a_source_s_blocks_exactly(centred: bool, tmp_path: Path) -> None:
    weight = random_q4(48, 128, centred=centred)
    # Whole numbers up to 127 survive the kernel's own rounding of activations, so only the weights could err.
    values = np.random.default_rng(2).integers(-126, 127, (3, 128)).astype(np.float32)
    values[:, ::32] = 127
    exact = values.astype(np.float64) @ weight.dense().astype(np.float64).T
    assert np.allclose(multiply(tmp_path, "q4", weight, values), exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("lane", ["q8", "int8", "q4"])
def test_tables_keep_centred_4_bit_rows_exactly_and_others_in_8_bits(lane: str, tmp_path: Path) -> None:
    exact = random_q4(40, 64, centred=True)
    assert np.allclose(look_up(tmp_path, lane, exact, [3, 39, 3]), exact.dense()[[3, 39, 3]], rtol=1e-6)
    rough = random_matrix(40, 64)
    step = np.abs(rough).max(axis=1) / 127
    assert (np.abs(look_up(tmp_path, lane, rough, [5, 6]) - rough[[5, 6]]).max(axis=1) <= step[[5, 6]] * 0.51).all()


@pytest.mark.parametrize("lane", ["fp32", "q8", "int8", "q4"])
def test_a_tied_head_shares_the_table_s_bytes(lane: str, tmp_path: Path) -> None:
    weight = random_matrix(300, 64)
    sizes = []
    for with_head in (False, True):
        with WeightsFile(tmp_path / "shared") as shared, WeightsFile(tmp_path / "own") as own:
            lowering = LOWERINGS[lane](Graph("tied", shared, own))
            lowering.table("ids", weight)
            if with_head:
                lowering.head("x", weight)
        sizes.append((tmp_path / "shared").stat().st_size)
    assert sizes[0] == sizes[1] > 0
    assert (tmp_path / "own").stat().st_size == 0
