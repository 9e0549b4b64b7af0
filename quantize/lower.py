"""Lowerings: how a lane keeps its matrices and multiplies by them. Every one treats each row (token) on its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quantize.experts import ExpertWeights, multiply_blocks, multiply_full
from quantize.graphs.parts import CONTRIB, FLOAT, UINT8, Graph
from quantize.rounding import block_of, pack_nibbles, quantize_blocks, quantize_columns, round_q4
from quantize.sources.checkpoint import Q4, Q4_BLOCK, Floats, Tensor, dense

_ACCURACY_INT8 = 4  # MatMulNBits quantizes activations to int8 per block; level 0 is 48 times slower.
_FINE_BLOCK = 32
_TINY = 1e-20  # Stands in for the largest value of a row that is all zeros.


@dataclass(frozen=True)
class Rows:
    """Activations [T, K] prepared once for all that multiply them; `scale` and `sums` only where a lane needs them."""

    values: str
    scale: str = ""
    sums: str = ""


class Lowering(Protocol):
    def rows(self, values: str) -> Rows: ...

    def multiply(self, rows: Rows, weight: Tensor) -> str:
        """[T, K] by a matrix [N, K] (given as the source has it) → [T, N]."""
        ...

    def table(self, ids: str, weight: Tensor, *, fine: bool = False) -> str:
        """Rows of an embedding table [V, K] → [T, K]."""
        ...

    def head(self, values: str, weight: Tensor, *, fine: bool = False) -> str:
        """Like rows and multiply, for the output head; shares the table's bytes where the two are tied.

        `fine`: of both, for a model that needs more than 8 bits of what goes into its head.
        """
        ...

    def experts(self, values: str, marks: str, weights: ExpertWeights) -> str:
        """[R, hidden] → [R, hidden], each row by the one expert that it has a 1 for in `marks` [R, experts]."""
        ...


class _Lane:
    """Writes into one graph; activations are multiplied as they are unless a lane says otherwise."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def rows(self, values: str) -> Rows:
        return Rows(values)


class Full(_Lane):
    """float32 throughout: the yardstick of the other lanes."""

    def multiply(self, rows: Rows, weight: Tensor) -> str:
        return self._graph.one("Gemm", rows.values, self._graph.constant(dense(weight)), transB=1)

    def table(self, ids: str, weight: Tensor, *, fine: bool = False) -> str:
        del fine  # Nothing is rounded.
        return self._graph.one("Gather", self._graph.constant(dense(weight), shared=True), ids, axis=0)

    def head(self, values: str, weight: Tensor, *, fine: bool = False) -> str:
        del fine
        return self._graph.one("Gemm", values, self._graph.constant(dense(weight), shared=True), transB=1)

    def experts(self, values: str, marks: str, weights: ExpertWeights) -> str:
        return multiply_full(self._graph, values, marks, weights)


class _BlockTable(_Lane):
    """The table and the head as every quantized lane keeps them: the source's own 4 bits, else 8 bits block-wise.

    Experts are kept in 8-bit blocks unless a lane says otherwise.
    """

    def table(self, ids: str, weight: Tensor, *, fine: bool = False) -> str:
        if isinstance(weight, Q4) and _centred(weight):
            codes, scale, bits, block = pack_nibbles(weight.codes), weight.scale, 4, Q4_BLOCK
        else:
            codes, scale = quantize_blocks(dense(weight), block := _table_block(weight, fine))
            bits = 8
        data = self._graph.constant(codes.reshape(codes.shape[0], -1), shared=True)
        scales = self._graph.constant(scale, shared=True)
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": bits}
        return self._graph.one("GatherBlockQuantized", data, ids, scales, domain=CONTRIB, **attributes)

    def head(self, values: str, weight: Tensor, *, fine: bool = False) -> str:
        """Fine: as what 8 bits keep of the values and what they leave, each multiplied, in one go."""
        graph, block = self._graph, _table_block(weight, fine)
        if not fine:
            return _multiply_blocks(graph, values, dense(weight), block, shared=True)
        both = _multiply_blocks(
            graph, _split_rows(graph, values, block, weight.shape[1]), dense(weight), block, shared=True
        )
        return graph.one("Add", *graph.node("Split", [both], 2, axis=0, num_outputs=2))

    def experts(self, values: str, marks: str, weights: ExpertWeights) -> str:
        return multiply_blocks(self._graph, values, marks, weights, bits=8)


class Q8(_BlockTable):
    """8-bit weights in blocks with a scale each, nearly lossless."""

    def multiply(self, rows: Rows, weight: Tensor) -> str:
        return _multiply_blocks(self._graph, rows.values, dense(weight), block_of(weight.shape[1]))


class Int8(_BlockTable):
    """Row-wise int8: one scale per token and one per output column. Fastest for prefill and large batches."""

    def rows(self, values: str) -> Rows:
        """Unsigned bytes around 128: value ≈ (byte - 128) * largest / 127. Casting cuts, so 128.5 rounds to nearest."""
        graph = self._graph
        largest = graph.one("ReduceMax", graph.one("Abs", values), graph.integers(-1), keepdims=1)
        largest = graph.one("Max", largest, graph.number(_TINY))
        stretched = graph.one("Mul", values, graph.one("Div", graph.number(127), largest))
        shifted = graph.one("Add", stretched, graph.number(128.5))
        return Rows(graph.one("Cast", shifted, to=UINT8), scale=largest)

    def multiply(self, rows: Rows, weight: Tensor) -> str:
        graph = self._graph
        codes, scale = quantize_columns(dense(weight))
        middle = graph.constant(np.array(128, np.uint8))
        product = graph.one("MatMulInteger", rows.values, graph.constant(codes), middle)
        scaled = graph.one("Mul", graph.one("Cast", product, to=FLOAT), rows.scale)
        return graph.one("Mul", scaled, graph.constant(scale / np.float32(127)))


class Q4Blocks(_BlockTable):
    """4-bit weights in blocks of 32: exactly the source's where it has such blocks, else rounded here.

    A block's value is scale * (code - 8) + rest. The scaled part runs on the fast symmetric kernel (its zero points may
    be floats, but then it is a hundred times slower); the rest is one number per block, so it multiplies the sum of the
    block's activations.
    """

    def rows(self, values: str) -> Rows:
        """The sums of all rows' blocks in one vector: with no rows at all, only `multiply` knows how long a row is."""
        blocks = self._graph.one("Reshape", values, self._graph.integers(-1, Q4_BLOCK))
        return Rows(values, sums=self._graph.one("ReduceSum", blocks, self._graph.integers(1), keepdims=0))

    def multiply(self, rows: Rows, weight: Tensor) -> str:
        blocks = weight if isinstance(weight, Q4) else round_q4(weight)
        rows_count, columns = blocks.shape
        product = self._graph.one(
            "MatMulNBits",
            rows.values,
            self._graph.constant(pack_nibbles(blocks.codes)),
            self._graph.constant(blocks.scale),
            domain=CONTRIB,
            K=columns,
            N=rows_count,
            bits=4,
            block_size=Q4_BLOCK,
            accuracy_level=_ACCURACY_INT8,
        )
        if _centred(blocks):
            return product
        rest = np.ascontiguousarray((blocks.low + np.float32(8) * blocks.scale).T)
        sums = self._graph.one("Reshape", rows.sums, self._graph.integers(-1, columns // Q4_BLOCK))
        return self._graph.one("Gemm", sums, self._graph.constant(rest), product)

    def experts(self, values: str, marks: str, weights: ExpertWeights) -> str:
        return multiply_blocks(self._graph, values, marks, weights, bits=4)


LOWERINGS: Mapping[str, Callable[[Graph], Lowering]] = {"fp32": Full, "q8": Q8, "int8": Int8, "q4": Q4Blocks}


def _centred(blocks: Q4) -> bool:
    return bool(np.array_equal(blocks.low, np.float32(-8) * blocks.scale))


def _table_block(weight: Tensor, fine: bool) -> int:
    """GGUF's own blocks of 8 bits are as wide as the fine ones, so they stay exactly as they are."""
    return min(block_of(weight.shape[1]), _FINE_BLOCK) if fine else block_of(weight.shape[1])


def _split_rows(graph: Graph, values: str, block: int, width: int) -> str:
    """[R, width] → [2 R, width]: first what the kernel's 8 bits per block will keep of each row, then what is left."""
    blocks = graph.one("Reshape", values, graph.integers(-1, block))
    largest = graph.one("ReduceMax", graph.one("Abs", blocks), graph.integers(-1), keepdims=1)
    scale = graph.one("Div", graph.one("Max", largest, graph.number(_TINY)), graph.number(127))
    kept = graph.one("Mul", graph.one("Round", graph.one("Div", blocks, scale)), scale)
    both = graph.one("Concat", kept, graph.one("Sub", blocks, kept), axis=0)
    return graph.one("Reshape", both, graph.integers(-1, width))


def _multiply_blocks(graph: Graph, values: str, weight: Floats, block: int, *, shared: bool = False) -> str:
    codes, scale = quantize_blocks(weight, block)
    return graph.one(
        "MatMulNBits",
        values,
        graph.constant(codes, shared=shared),
        graph.constant(scale, shared=shared),
        domain=CONTRIB,
        K=weight.shape[1],
        N=weight.shape[0],
        bits=8,
        block_size=block,
        accuracy_level=_ACCURACY_INT8,
    )
