import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantize.rounding import block_of, pack_nibbles, quantize_blocks, quantize_columns, round_q4
from quantize.sources.checkpoint import SourceError


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=64, max_size=64))
def test_8_bit_blocks_err_by_at_most_half_a_step(values: list[float]) -> None:
    weight = np.array(values, np.float32).reshape(2, 32)
    codes, scale = quantize_blocks(weight, 16)
    back = (codes.astype(np.float32) - 128) * scale[:, :, None]
    assert (np.abs(back.reshape(weight.shape) - weight) <= np.repeat(scale, 16, axis=1) * 0.501 + 1e-30).all()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=64, max_size=64))
def test_8_bit_columns_err_by_at_most_half_a_step(values: list[float]) -> None:
    weight = np.array(values, np.float32).reshape(2, 32)
    codes, scale = quantize_columns(weight)
    assert (np.abs(codes.T * scale[:, None] - weight) <= scale[:, None] * 0.501 + 1e-30).all()


def test_4_bit_rounding_is_better_than_plain_rounding_to_each_block_s_range() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    blocks = weight.reshape(64, -1, 32)
    bottom, top = blocks.min(axis=2, keepdims=True), blocks.max(axis=2, keepdims=True)
    plain = np.rint((blocks - bottom) / (top - bottom) * 15) / 15 * (top - bottom) + bottom
    ours = np.square(round_q4(weight).dense() - weight).mean()
    assert ours < np.square(plain - blocks).mean() * 0.95


def test_4_bit_rounding_keeps_a_constant_block() -> None:
    weight = np.full((1, 32), 0.3, np.float32)
    assert np.allclose(round_q4(weight).dense(), weight)


@given(st.binary(min_size=64, max_size=64))
def test_nibbles_are_packed_with_the_earlier_code_low(data: bytes) -> None:
    codes = (np.frombuffer(data, np.uint8) & np.uint8(15)).reshape(1, 2, 32)
    packed = pack_nibbles(codes)
    assert np.array_equal(np.stack([packed & 15, packed >> 4], axis=3).reshape(codes.shape), codes)


def test_rows_that_fit_no_block_are_refused() -> None:
    assert [block_of(columns) for columns in (576, 96, 48)] == [64, 32, 16]
    with pytest.raises(SourceError, match="40"):
        block_of(40)
    with pytest.raises(SourceError, match="48"):
        round_q4(np.zeros((1, 48), np.float32))
