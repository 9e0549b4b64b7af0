"""How a matrix becomes whole numbers and scales: 8 bit by block or by column, 4 bit by block."""

import numpy as np
from numpy.typing import NDArray

from quantize.sources.checkpoint import Q4, Q4_BLOCK, Floats, SourceError


def block_of(columns: int) -> int:
    """The widest block, of those the kernels take, that divides a row."""
    for block in (64, 32, 16):
        if columns % block == 0:
            return block
    raise SourceError(f"a matrix has rows of {columns} values; only multiples of 16 can be kept in blocks")


def quantize_blocks(weight: Floats, block: int) -> tuple[NDArray[np.uint8], Floats]:
    """Symmetric 8 bit: codes [N, blocks, block] around 128 and scales [N, blocks]."""
    blocks = weight.reshape(weight.shape[0], -1, block)
    scale = np.abs(blocks).max(axis=2) / np.float32(127)
    codes = np.rint(blocks / np.where(scale == 0, np.float32(1), scale)[:, :, None])
    codes += np.float32(128)
    return codes.astype(np.uint8), scale


def quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric 8 bit, one scale per output: codes int8 [K, N] and scales [N]."""
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    codes = np.rint(weight / np.where(scale == 0, np.float32(1), scale)[:, None])
    return np.ascontiguousarray(codes.astype(np.int8).T), scale


def round_q4(weight: Floats) -> Q4:
    """Asymmetric 4 bit in blocks of 32, the range of each block shrunk to where the squared error is least."""
    if weight.shape[1] % Q4_BLOCK:
        raise SourceError(f"a matrix has rows of {weight.shape[1]} values; 4 bit needs multiples of {Q4_BLOCK}")
    blocks = weight.reshape(weight.shape[0], -1, Q4_BLOCK)
    top, bottom = blocks.max(axis=2), blocks.min(axis=2)
    best: Q4 | None = None
    least = np.full(top.shape, np.inf, np.float32)
    for shrink in np.linspace(1.0, 0.8, 9, dtype=np.float32):
        middle, half = (top + bottom) / 2, (top - bottom) / 2 * shrink
        tried = _round_range(blocks, middle - half, middle + half)
        error = np.square(tried.dense().reshape(blocks.shape) - blocks).sum(axis=2)
        better = error < least
        best = tried if best is None else _choose(better, tried, best)
        least = np.minimum(least, error)
    assert best is not None
    return best


def _round_range(blocks: Floats, bottom: Floats, top: Floats) -> Q4:
    scale = (top - bottom) / np.float32(15)
    steps = (blocks - bottom[:, :, None]) / np.where(scale == 0, np.float32(1), scale)[:, :, None]
    return Q4(np.clip(np.rint(steps), 0, 15).astype(np.uint8), scale, bottom)


def _choose(where: NDArray[np.bool_], first: Q4, second: Q4) -> Q4:
    return Q4(
        np.where(where[:, :, None], first.codes, second.codes),
        np.where(where, first.scale, second.scale),
        np.where(where, first.low, second.low),
    )


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two codes a byte, the earlier one in the low half: [N, blocks, 32] → [N, blocks, 16]."""
    return codes[:, :, 0::2] | (codes[:, :, 1::2] << np.uint8(4))
