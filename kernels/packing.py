"""Matrices as the operators read them (source/matmul.h): groups of 16 outputs, blocks of 32 inputs."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
GROUP = 16
TILE_TOKENS = 16

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


def pack4(codes: Codes, scale: Floats, low: Floats) -> Codes:
    """Codes 0 to 15 [N, blocks, 32], scales and lows [N, blocks] → [groups, blocks, 320]; N is padded to groups."""
    grouped = _grouped(codes)
    halves = grouped[:, :, :4] | (grouped[:, :, 4:] << np.uint8(4))
    return np.concatenate([_scales(scale), _scales(low), _flat(halves)], axis=2)


def pack8(codes: Codes, scale: Floats) -> Codes:
    """Codes around 128 [N, blocks, 32] and scales [N, blocks] → [groups, blocks, 544]; N is padded to groups."""
    return np.concatenate([_scales(scale), _flat(_grouped(codes))], axis=2)


def quantize8(weight: Floats) -> tuple[Codes, Floats]:
    """Codes around 128 [N, blocks, 32] and scales [N, blocks] that half precision holds exactly, of a matrix [N, K]."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    scale = (np.abs(blocks).max(axis=2) / np.float32(127)).astype(np.float16).astype(np.float32)
    steps = np.rint(blocks / np.where(scale == 0, np.float32(1), scale)[:, :, None])
    return (np.clip(steps, -127, 127) + 128).astype(np.uint8), scale


def units(gate_rows: int) -> NDArray[np.int64]:
    """The order of the rows of gates over ups that makes units: 16 gates, their 16 ups, and so on."""
    gates = np.arange(gate_rows).reshape(-1, 1, GROUP)
    return np.concatenate([gates, gates + gate_rows], axis=1).reshape(-1)


def tile_bytes(head: int) -> int:
    """Bytes of TILE_TOKENS tokens' keys (or values) of one head in the cache (source/attention.h)."""
    return (TILE_TOKENS + 1) * head


def _grouped(codes: Codes) -> Codes:
    """[N, blocks, 32] → [groups, blocks, 8, 16, 4]: four inputs of each output stand together."""
    groups = -(-codes.shape[0] // GROUP)
    padded = np.zeros((groups * GROUP, *codes.shape[1:]), np.uint8)
    padded[: codes.shape[0]] = codes
    return padded.reshape(groups, GROUP, -1, 8, 4).transpose(0, 2, 3, 1, 4)


def _flat(grouped: Codes) -> Codes:
    return grouped.reshape(*grouped.shape[:2], -1)


def _scales(values: Floats) -> Codes:
    """[N, blocks] → half precision [groups, blocks, 32 bytes]."""
    groups = -(-values.shape[0] // GROUP)
    padded = np.zeros((groups * GROUP, values.shape[1]), np.float16)
    padded[: values.shape[0]] = values
    grouped = np.ascontiguousarray(padded.reshape(groups, GROUP, -1).transpose(0, 2, 1))
    return grouped.view(np.uint8)
