"""The parts of an encoder's layer, written with ONNX Runtime's own operators."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from quantize.graphs.encoder_families import Activation, EncoderDesign, EncoderLayer
from quantize.graphs.parts import CONTRIB, FLOAT, INT64, Graph, unpad
from quantize.graphs.rotary import rotary_tables
from quantize.lower import Lowering
from quantize.sources.checkpoint import Floats, Tensor

_OUT_OF_SIGHT = -1e30


@dataclass(frozen=True)
class Linear:
    """A matrix [out, in] and what is added to its product."""

    weight: Tensor
    bias: Floats | None


@dataclass(frozen=True)
class Norm:
    """What normalised values are multiplied by, and what is added then."""

    scale: Floats
    shift: Floats | None


class Parts(Protocol):
    """What a layer is put together from. Values are [T, width] numbers by the name of their tensor."""

    def project(self, values: str, linear: Linear, activation: Activation | None = None) -> str:
        """activation(values · matrix + bias)."""
        ...

    def norm(self, values: str, added: str | None, norm: Norm) -> str:
        """Of the values, with what is `added` to them first."""
        ...

    def add_norm(self, stream: str, inner: str, linear: Linear, norm: Norm) -> tuple[str, str]:
        """(the sum's norm, the sum): of stream + inner · matrix + bias."""
        ...

    def attend(
        self, values: str, linear: Linear, layer: EncoderLayer, *, relative: Floats | None, wanted: str | None
    ) -> str:
        """Attention, its queries, keys and values made by `linear`. `relative` [heads, 2 P - 1]: bias by distance.

        `wanted`: places of the step's tokens that anything is asked of (None: all).
        """
        ...


class PlainParts:
    """Attention is padded to [B, S]; all else stays packed. Biases go into the operator that comes next."""

    def __init__(self, graph: Graph, lowering: Lowering, design: EncoderDesign) -> None:
        self._graph, self._lowering, self._design = graph, lowering, design
        self._masks: dict[int, str] = {}
        self._tables: dict[tuple[float, ...], list[str]] = {}
        self._gaps = ""

    def project(self, values: str, linear: Linear, activation: Activation | None = None) -> str:
        graph = self._graph
        product, bias = self._lowering.multiply(self._lowering.rows(values), linear.weight), linear.bias
        if activation == "gelu" and bias is not None:
            return graph.one("BiasGelu", product, self._vector(bias), domain=CONTRIB)
        if bias is not None:
            product = graph.one("Add", product, self._vector(bias))
        return activate(graph, product, activation)

    def norm(self, values: str, added: str | None, norm: Norm) -> str:
        more = [] if norm.shift is None else [self._vector(norm.shift)]
        epsilon = self._design.epsilon
        if added is not None:
            inputs = [values, added, self._vector(norm.scale), *more]
            return self._graph.one("SkipLayerNormalization", *inputs, domain=CONTRIB, epsilon=epsilon)
        return self._graph.one("LayerNormalization", values, self._vector(norm.scale), *more, epsilon=epsilon)

    def add_norm(self, stream: str, inner: str, linear: Linear, norm: Norm) -> tuple[str, str]:
        graph = self._graph
        change = self._lowering.multiply(self._lowering.rows(inner), linear.weight)
        optional = ["" if vector is None else self._vector(vector) for vector in (norm.shift, linear.bias)]
        outputs = [graph.fresh("normed")]
        if self._design.pre_norm:
            outputs += ["", "", graph.fresh("stream")]
        inputs = [stream, change, self._vector(norm.scale), *optional]
        graph.node("SkipLayerNormalization", inputs, outputs, CONTRIB, epsilon=self._design.epsilon)
        return outputs[0], outputs[-1]

    def attend(
        self, values: str, linear: Linear, layer: EncoderLayer, *, relative: Floats | None, wanted: str | None
    ) -> str:
        graph, design = self._graph, self._design
        packed = self._lowering.multiply(self._lowering.rows(values), linear.weight)
        if layer.turns:
            padded = self._turn(packed, layer)
        else:
            joint = graph.one("Gather", packed, "unpack_idx", axis=0)
            padded = graph.node("Split", [joint], 3, axis=2, num_outputs=3)
        mask = self._relative(relative) if relative is not None else self._window(layer)
        bias = "" if linear.bias is None else self._vector(linear.bias)
        inputs = [*padded, bias, "lengths", *([mask] if mask else [])]
        mixed = graph.one("MultiHeadAttention", *inputs, domain=CONTRIB, num_heads=design.heads)
        places = "pack_idx" if wanted is None else graph.one("Gather", "pack_idx", wanted, axis=0)
        return unpad(graph, mixed, places, design.hidden)

    def _turn(self, packed: str, layer: EncoderLayer) -> list[str]:
        """Queries and keys turned by their position while packed, then all padded."""
        graph, design = self._graph, self._design
        if layer.turns not in self._tables:
            tables = rotary_tables(layer.turns, design.positions)
            self._tables[layer.turns] = [graph.constant(table, shared=True) for table in tables]
        cosines, sines = self._tables[layer.turns]
        first = graph.integers(0)
        places = graph.one("Unsqueeze", "position_ids", first)
        padded = []
        for place, part in enumerate(graph.node("Split", [packed], 3, axis=1, num_outputs=3)):
            turned = part
            if place < 2:
                row = graph.one("Unsqueeze", part, first)
                inputs = [row, places, cosines, sines]
                turned = graph.one("RotaryEmbedding", *inputs, domain=CONTRIB, num_heads=design.heads)
                turned = graph.one("Squeeze", turned, first)
            padded.append(graph.one("Gather", turned, "unpack_idx", axis=0))
        return padded

    def _relative(self, by_distance: Floats) -> str:
        """[1, heads, S, S], the same in every layer."""
        graph = self._graph
        if 0 not in self._masks:
            middle = graph.constant(np.array(by_distance.shape[1] // 2, np.int64))
            places = graph.one("Add", self._distances(), middle)
            biases = graph.one("Gather", graph.constant(by_distance, shared=True), places, axis=1)
            self._masks[0] = graph.one("Unsqueeze", biases, graph.integers(0))
        return self._masks[0]

    def _window(self, layer: EncoderLayer) -> str:
        """[1, 1, S, S]: 0 where a token sees another, and far below anything where it does not; "" if it sees all."""
        graph, window = self._graph, layer.window
        if window is None:
            return ""
        if window not in self._masks:
            far = graph.one("Greater", graph.one("Abs", self._distances()), graph.constant(np.array(window, np.int64)))
            mask = graph.one("Mul", graph.one("Cast", far, to=FLOAT), graph.number(_OUT_OF_SIGHT))
            self._masks[window] = graph.one("Unsqueeze", mask, graph.integers(0, 1))
        return self._masks[window]

    def _distances(self) -> str:
        """[S, S]: how far each padded place stands after another."""
        graph = self._graph
        if not self._gaps:
            zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
            width = graph.one("Gather", graph.one("Shape", "unpack_idx"), one, axis=0)
            places = graph.one("Range", zero, width, one)
            column = graph.one("Unsqueeze", places, graph.integers(1))
            self._gaps = graph.one("Cast", graph.one("Sub", places, column), to=INT64)
        return self._gaps

    def _vector(self, values: Floats) -> str:
        return self._graph.constant(values, shared=True)


def activate(graph: Graph, values: str, activation: Activation | None) -> str:
    match activation:
        case None:
            return values
        case "gelu":
            return graph.one("Gelu", values, domain=CONTRIB)
        case "gelu_tanh":
            return graph.one("FastGelu", values, domain=CONTRIB)
        case "relu":
            return graph.one("Relu", values)
        case "tanh":
            return graph.one("Tanh", values)
