"""Encoders in packed form: a step's tokens of all texts one after another; nothing but attention knows of padding."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from quantize.graphs.encoder_families import EncoderDesign, EncoderLayer, read_encoder
from quantize.graphs.encoder_parts import Linear, Norm, Parts, PlainParts
from quantize.graphs.heads import EncoderTask, Head, choose_head
from quantize.graphs.parts import INT32, INT64, Graph
from quantize.lower import Lowering
from quantize.sources.checkpoint import Checkpoint, Floats, dense, stack

_FAR = 128  # Relative positions: every distance from here on has the bias of the last bucket.

MakeParts = Callable[[Graph, Lowering, EncoderDesign], Parts]


def build_encoder(
    graph: Graph,
    checkpoint: Checkpoint,
    lowering: Lowering,
    task: EncoderTask = "embedding",
    make_parts: MakeParts = PlainParts,
) -> None:
    """input_ids [T], position_ids [T] (from 0 in each text), type_ids [T] (for tasks on pairs of texts, and only where
    the model tells their tokens apart), unpack_idx [B,S] (token of each padded place; any token for padding),
    pack_idx [T] (padded place of each token), lengths [B] → embedding [B, dim] of unit length, or logits: [B, labels]
    of whole texts, [T, labels] of tokens.
    """
    design = read_encoder(checkpoint)
    tensors = {name.removeprefix(design.names.base): tensor for name, tensor in checkpoint.tensors.items()}
    parts = make_parts(graph, lowering, design)
    _Writer(graph, replace(checkpoint, tensors=tensors), parts, design, task).write(lowering)


class _Writer:
    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign, task: EncoderTask
    ) -> None:
        self._graph, self._checkpoint, self._parts, self._design = graph, checkpoint, parts, design
        self._pairs = design.types > 1 and task in ("classification", "rerank")
        self._relative = self._read_relative() if design.buckets else None
        self._head: Head = choose_head(graph, checkpoint, parts, design, task)

    def write(self, lowering: Lowering) -> None:
        graph, checkpoint, design, names = self._graph, self._checkpoint, self._design, self._design.names
        inputs = [("input_ids", INT64, ["T"]), ("position_ids", INT64, ["T"])]
        inputs += [("type_ids", INT64, ["T"])] if self._pairs else []
        inputs += [("unpack_idx", INT64, ["B", "S"]), ("pack_idx", INT64, ["T"]), ("lengths", INT32, ["B"])]
        for name, kind, shape in inputs:
            graph.input(name, kind, shape)
        values = stream = self._parts.norm(*self._embed(lowering), self._norm(names.norm))
        for place, layer in enumerate(design.layers):
            last = place + 1 == len(design.layers)
            wanted = self._head.wanted() if last else None
            values, stream = self._write_layer(place, layer, values, stream, wanted)
        self._head.write(values)
        # A head of another task's training is no part of this graph, but its own head must have been read.
        checkpoint.refuse_unread(design.needless)

    def _embed(self, lowering: Lowering) -> tuple[str, str | None]:
        """Words (and types), and what is to be added to them: positions, where the model has them."""
        graph, design, names = self._graph, self._design, self._design.names
        total = lowering.table("input_ids", self._checkpoint.tensor(f"{names.words}.weight"))
        if self._pairs:
            types = graph.constant(self._checkpoint.vector(f"{names.types}.weight"), shared=True)
            total = graph.one("Add", total, graph.one("Gather", types, "type_ids", axis=0))
        rows = None
        if names.positions:
            places = self._checkpoint.vector(f"{names.positions}.weight")[design.first_position :]
            if names.types and not self._pairs:
                # Every token has type 0 here, so its row is added to the positions once, at build time.
                places = places + self._checkpoint.vector(f"{names.types}.weight")[0]
            rows = graph.one("Gather", graph.constant(places, shared=True), "position_ids", axis=0)
        return total, rows

    def _write_layer(
        self, place: int, layer: EncoderLayer, values: str, stream: str, wanted: str | None
    ) -> tuple[str, str]:
        """From a layer's input and the stream to the next one's. With `wanted`, only those tokens are left."""
        graph, parts, design, names = self._graph, self._parts, self._design, self._design.names
        prefix = f"{names.layer}.{place}"
        joint = [f"{prefix}.{part}" for part in names.joint]
        mixed = parts.attend(values, self._linear(*joint), layer, relative=self._relative, wanted=wanted)
        if wanted is not None:
            stream = graph.one("Gather", stream, wanted, axis=0)
        norm = self._norm(f"{prefix}.{names.mix_norm}")
        values, total = parts.add_norm(stream, mixed, self._linear(f"{prefix}.{names.mix}"), norm)
        stream = total if design.pre_norm else values
        inner = self._feed_forward(f"{prefix}.{names.inner}", values)
        norm_name = f"{prefix}.{names.outer_norm}"
        if design.pre_norm:  # The norm that comes next is the next layer's first one.
            last = place + 1 == len(design.layers)
            norm_name = names.final_norm if last else f"{names.layer}.{place + 1}.{names.outer_norm}"
        values, total = parts.add_norm(stream, inner, self._linear(f"{prefix}.{names.outer}"), self._norm(norm_name))
        return values, total if design.pre_norm else values

    def _feed_forward(self, name: str, values: str) -> str:
        linear, activation = self._linear(name), self._design.activation
        if not self._design.gated:
            return self._parts.project(values, linear, activation)
        rows, half = dense(linear.weight), linear.weight.shape[0] // 2
        biases = (None, None) if linear.bias is None else (linear.bias[:half], linear.bias[half:])
        first = self._parts.project(values, Linear(rows[:half], biases[0]), activation)
        return self._graph.one("Mul", first, self._parts.project(values, Linear(rows[half:], biases[1])))

    def _linear(self, *names: str) -> Linear:
        """Several matrices stand one under another in one."""
        tensors = [self._checkpoint.tensor(f"{name}.weight") for name in names]
        return Linear(tensors[0] if len(tensors) == 1 else stack(tensors), self._bias(*names))

    def _bias(self, *names: str) -> Floats | None:
        """None where the model has none."""
        if f"{names[0]}.bias" not in self._checkpoint.tensors:
            return None
        return np.concatenate([self._checkpoint.vector(f"{name}.bias") for name in names])

    def _norm(self, name: str) -> Norm:
        return Norm(self._checkpoint.vector(f"{name}.weight"), self._bias(name))

    def _read_relative(self) -> Floats:
        """Bias of every distance from -(positions - 1) to positions - 1: [heads, 2 positions - 1]."""
        design = self._design
        biases = self._checkpoint.vector("encoder.relative_attention_bias.weight")
        distances = np.arange(-(design.positions - 1), design.positions)
        half, sizes = design.buckets // 2, np.abs(distances)
        exact = half // 2
        scale = np.float32(math.log(_FAR / exact))
        grown = np.log(np.maximum(sizes, 1).astype(np.float32) / np.float32(exact)) / scale * np.float32(half - exact)
        wide = np.minimum(exact + grown.astype(np.int64), half - 1)
        buckets = np.where(sizes < exact, sizes, wide) + np.where(distances > 0, half, 0)
        return np.ascontiguousarray(biases[buckets].T)
