import numpy as np
import pytest

from quantize.sources.checkpoint import Q4, Checkpoint, SourceError, dense, stack


def blocks(rows: int, seed: int = 0) -> Q4:
    draw = np.random.default_rng(seed)
    return Q4(
        draw.integers(0, 16, (rows, 2, 32), dtype=np.uint8),
        draw.random((rows, 2), dtype=np.float32),
        draw.random((rows, 2), dtype=np.float32),
    )


def test_a_block_s_value_is_code_times_scale_plus_low() -> None:
    matrix = blocks(3)
    assert matrix.shape == (3, 64)
    expected = float(matrix.codes[1, 1, 5]) * matrix.scale[1, 1] + matrix.low[1, 1]
    assert matrix.dense()[1, 37] == pytest.approx(expected)


def test_stacking_keeps_exact_blocks_only_if_every_part_has_them() -> None:
    first, second = blocks(2), blocks(3, seed=1)
    exact = stack([first, second])
    assert isinstance(exact, Q4)
    assert np.array_equal(exact.dense(), np.concatenate([first.dense(), second.dense()]))
    mixed = stack([first, second.dense()])
    assert isinstance(mixed, np.ndarray)
    assert np.array_equal(mixed, exact.dense())


def test_taking_rows_reorders_them() -> None:
    matrix = blocks(3)
    assert np.array_equal(matrix.take(np.array([2, 0])).dense(), dense(matrix)[[2, 0]])


def test_what_is_missing_is_named() -> None:
    checkpoint = Checkpoint({}, {}, "")
    with pytest.raises(SourceError, match=r"model\.norm\.weight"):
        checkpoint.tensor("model.norm.weight")
    with pytest.raises(SourceError, match="hidden_size"):
        checkpoint.setting("hidden_size")
