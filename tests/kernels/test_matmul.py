import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.packing import pack4, pack8, quantize8, units
from tests.kernels.node import Operators, read_rows

Floats = NDArray[np.float32]


def numbers(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def random4(outputs: int, inputs: int, seed: int = 1) -> tuple[NDArray[np.uint8], Floats]:
    """A packed 4-bit matrix and the numbers that it holds."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 16, (outputs, inputs // 32, 32), dtype=np.uint8)
    scale = random.uniform(0.01, 0.1, codes.shape[:2]).astype(np.float16).astype(np.float32)
    low = random.uniform(-1, 0, codes.shape[:2]).astype(np.float16).astype(np.float32)
    return pack4(codes, scale, low), (codes * scale[:, :, None] + low[:, :, None]).reshape(outputs, inputs)


def random8(outputs: int, inputs: int, seed: int = 1) -> tuple[NDArray[np.uint8], Floats]:
    codes, scale = quantize8(numbers(outputs, inputs, seed=seed))
    return pack8(codes, scale), ((codes.astype(np.float32) - 128) * scale[:, :, None]).reshape(outputs, inputs)


MATRICES = {4: random4, 8: random8}


def quantize(operators: Operators, values: Floats) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = operators.run("QuantizeRows", [values], [np.uint8])[0]
    return rows


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 21])
def test_a_product_is_that_of_the_numbers_that_rows_and_matrix_hold(
    operators: Operators, bits: int, count: int
) -> None:
    matrix, dense = MATRICES[bits](45, 96)  # the last group is not full
    rows = quantize(operators, numbers(count, 96))
    bias = numbers(45, seed=3)
    (product,) = operators.run("MatMulBlocks", [rows, matrix, bias], [np.float32], width=45)
    assert np.allclose(product, read_rows(rows) @ dense.T + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_s_product_is_the_same_to_the_bit_whatever_its_neighbours(operators: Operators, bits: int) -> None:
    matrix, _ = MATRICES[bits](64, 64)
    rows = quantize(operators, numbers(19, 64))
    (together,) = operators.run("MatMulBlocks", [rows, matrix], [np.float32], width=64)
    for place in range(19):
        (alone,) = operators.run("MatMulBlocks", [rows[place : place + 1], matrix], [np.float32], width=64)
        assert np.array_equal(alone[0], together[place])


def test_the_largest_codes_do_not_overflow(operators: Operators) -> None:
    codes = np.full((16, 2, 32), 255, np.uint8)
    codes[8:] = 1
    matrix = pack8(codes, np.ones((16, 2), np.float32))
    rows = quantize(operators, np.full((1, 64), -127, np.float32))
    (product,) = operators.run("MatMulBlocks", [rows, matrix], [np.float32], width=16)
    assert product[0].tolist() == [-127.0 * 127 * 64] * 8 + [127.0 * 127 * 64] * 8


def silu(x: Floats) -> Floats:
    return np.asarray(x / (1 + np.exp(-x)), np.float32)


def gelu_tanh(x: Floats) -> Floats:
    inner = 0.7978845608 * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), np.float32)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("number", "activation"), [(0, silu), (1, gelu_tanh)])
def test_gates_and_ups_make_the_inner_rows(operators: Operators, bits: int, number: int, activation: object) -> None:
    assert callable(activation)
    matrix, dense = MATRICES[bits](128, 64)  # 64 gates, 64 ups, in the order of units
    rows = quantize(operators, numbers(9, 64))
    both = read_rows(rows) @ dense.T
    order = units(64)
    gates, ups = both[:, order < 64], both[:, order >= 64]
    (inner,) = operators.run("GateUp", [rows, matrix], [np.uint8], activation=number)
    expected = activation(gates) * ups
    assert np.abs(read_rows(inner) - expected).max() <= np.abs(expected).max() / 127


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_of_the_matrix_is_looked_up_exactly(operators: Operators, bits: int) -> None:
    matrix, dense = MATRICES[bits](45, 96)
    ids = np.array([0, 44, 17, 17])
    (found,) = operators.run("LookUp", [ids, matrix], [np.float32], width=45, factor=2.0)
    assert np.allclose(found, 2 * dense[ids], rtol=1e-6, atol=1e-6)


def test_quantized_rows_are_near_the_numbers_and_zeros_stay_zeros(operators: Operators) -> None:
    values = numbers(5, 64)
    values[2] = 0
    found = read_rows(quantize(operators, values))
    assert np.abs(found - values).max() <= np.abs(values).max() / 254 * 1.001
    assert not found[2].any()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_shows(operators: Operators, odd: float) -> None:
    values = numbers(2, 64)
    values[1, 5] = odd
    matrix, _ = random8(16, 64)
    (product,) = operators.run("MatMulBlocks", [quantize(operators, values), matrix], [np.float32], width=16)
    assert np.isfinite(product[0]).all()
    assert not np.isfinite(product[1]).any()


def test_norms_are_added_normalised_and_quantized(operators: Operators) -> None:
    stream, change = numbers(20, 64), numbers(20, 64, seed=1)
    weight, own = numbers(64, seed=2), numbers(64, seed=3)

    def norm(x: Floats, scale: Floats) -> Floats:
        return np.asarray(x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * scale, np.float32)

    for inputs, expected in (
        ([stream, weight], stream),
        ([stream, weight, change], stream + change),
        ([stream, weight, change, own], stream + norm(change, own)),
    ):
        outputs = [np.uint8, np.float32][: min(len(inputs) - 1, 2)]
        rows, *sums = operators.run("AddNormQuantize", inputs, outputs, epsilon=1e-5)
        assert all(np.allclose(found, expected, atol=1e-5) for found in sums)
        wanted = norm(expected, weight)
        assert np.abs(read_rows(rows) - wanted).max() <= np.abs(wanted).max() / 254 * 1.001


MATRIX = random8(32, 64)[0]
ROWS = np.zeros((2, 80), np.uint8)


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes", "says"),
    [
        ("MatMulBlocks", [ROWS[:, :40], MATRIX], {"width": 32}, "rows do not fit"),
        ("MatMulBlocks", [ROWS, MATRIX], {"width": 33}, "width does not fit"),
        ("MatMulBlocks", [ROWS, MATRIX], {"width": 16}, "width does not fit"),
        ("MatMulBlocks", [ROWS, MATRIX], {}, "width does not fit"),
        ("MatMulBlocks", [ROWS, MATRIX[:, :, :100]], {"width": 32}, "not in blocks"),
        ("MatMulBlocks", [ROWS, MATRIX, numbers(31)], {"width": 32}, "bias"),
        ("GateUp", [ROWS, MATRIX], {}, "four groups"),
        ("LookUp", [np.array([32]), MATRIX], {"width": 32}, "outside the table"),
        ("LookUp", [np.array([-1]), MATRIX], {"width": 32}, "outside the table"),
        ("LookUp", [np.array([40]), MATRIX], {"width": 48}, "blocks of its width"),
        ("QuantizeRows", [numbers(2, 33)], {}, "multiple of 32"),
        ("AddNormQuantize", [numbers(2, 64), numbers(32)], {}, "weight"),
        ("AddNormQuantize", [numbers(2, 64), numbers(64), numbers(1, 64)], {}, "as large as the stream"),
    ],
)
def test_what_does_not_fit_is_refused(
    best: Operators, kind: str, inputs: list[NDArray[np.generic]], attributes: dict[str, int], says: str
) -> None:
    rows_out = kind in {"GateUp", "QuantizeRows", "AddNormQuantize"}
    with pytest.raises(RuntimeError, match=says):
        best.run(kind, inputs, [np.uint8 if rows_out else np.float32], **attributes)
