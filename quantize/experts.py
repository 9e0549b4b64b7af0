"""How a lane keeps a layer's experts, and the node in which only the chosen ones are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from quantize.graphs.parts import CONTRIB, Graph
from quantize.rounding import block_of, pack_nibbles, quantize_blocks, round_q4
from quantize.sources.checkpoint import Q4, Q4_BLOCK, Floats, Tensor, dense, stack


@dataclass(frozen=True)
class ExpertWeights:
    """One matrix [out, in] per expert and purpose: down · (silu(gate · x) * (up · x))."""

    gate: Sequence[Tensor]
    up: Sequence[Tensor]
    down: Sequence[Tensor]


# One expert a row, with all of its share: shares are applied outside, see `write_experts`.
_ROUTING = {"k": 1, "normalize_routing_weights": 1}
_SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
_ACCURACY_INT8 = 4


def multiply_full(graph: Graph, values: str, marks: str, weights: ExpertWeights) -> str:
    """In float32. `values` [R, hidden], `marks` [R, experts] with a 1 for each row's expert → [R, hidden]."""
    both = np.stack([dense(_interleave(*pair)) for pair in zip(weights.gate, weights.up, strict=True)])
    inputs = [
        values,
        marks,
        graph.constant(both),
        "",
        graph.constant(np.stack([dense(matrix) for matrix in weights.down])),
    ]
    return graph.one("MoE", *inputs, domain=CONTRIB, **_ROUTING, **_SWIGLU)


def multiply_blocks(graph: Graph, values: str, marks: str, weights: ExpertWeights, bits: int) -> str:
    """The same with weights of 4 or 8 bits in blocks with a scale each."""
    block = Q4_BLOCK if bits == 4 else min(block_of(size) for size in weights.gate[0].shape)
    keep = _keep_4_bits if bits == 4 else partial(_keep_8_bits, block=block)
    both = [_interleave(*pair) for pair in zip(weights.gate, weights.up, strict=True)]
    first, first_scales, *first_zeros = keep(graph, both)
    second, second_scales, *second_zeros = keep(graph, weights.down)
    inputs = [values, marks, first, first_scales, "", second, second_scales, ""]
    zeros = ["", "", "", *first_zeros, *second_zeros] if first_zeros else []
    attributes = {"expert_weight_bits": bits, "block_size": block, "weights_prepacked": 0}
    return graph.one(
        "QMoE", *inputs, *zeros, domain=CONTRIB, accuracy_level=_ACCURACY_INT8, **attributes, **_ROUTING, **_SWIGLU
    )


def _interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of both in turn, as the nodes want them; exact 4-bit blocks survive."""
    both, count = stack([gate, up]), gate.shape[0]
    order = np.arange(2 * count).reshape(2, count).T.reshape(-1)
    return both.take(order) if isinstance(both, Q4) else both[order]


def _keep_8_bits(graph: Graph, matrices: Sequence[Tensor], block: int) -> list[str]:
    """Codes [experts, out, in] and scales [experts, out, in / block]."""
    kept = [quantize_blocks(dense(matrix), block) for matrix in matrices]
    codes = [codes.reshape(codes.shape[0], -1) for codes, _ in kept]
    return [graph.constant(np.stack(part)) for part in (codes, [scale for _, scale in kept])]


def _keep_4_bits(graph: Graph, matrices: Sequence[Tensor]) -> list[str]:
    """Codes [experts, out, in / 2], scales [experts, out, in / block], zero points [experts, out, in / block / 2]."""
    kept = [_with_zero_points(matrix if isinstance(matrix, Q4) else round_q4(matrix)) for matrix in matrices]
    return [graph.constant(np.stack(part)) for part in zip(*kept, strict=True)]


def _with_zero_points(blocks: Q4) -> tuple[NDArray[np.uint8], Floats, NDArray[np.uint8]]:
    """The node knows no lowest value of a block, only a code that stands for 0, so the lowest moves by half a step at
    most; blocks whose own is such a multiple (GGUF's Q4_0) stay exact.
    """
    scale = np.where(blocks.scale == 0, np.float32(1), blocks.scale)
    zeros = np.clip(np.rint(-blocks.low / scale), 0, 15)
    moved = np.rint((blocks.dense().reshape(blocks.codes.shape)) / scale[:, :, None] + zeros[:, :, None])
    codes = np.clip(moved, 0, 15).astype(np.uint8)
    even = np.concatenate([zeros, np.full((len(zeros), zeros.shape[1] % 2), 8)], axis=1).astype(np.uint8)
    return pack_nibbles(codes).reshape(len(codes), -1), blocks.scale, even[:, 0::2] | (even[:, 1::2] << np.uint8(4))
