"""What stands on top of an encoder: a vector for a text, or numbers for the labels of a text or of its tokens."""

from typing import Literal, Protocol

import numpy as np

from quantize.graphs.encoder_families import EncoderDesign
from quantize.graphs.encoder_parts import Linear, Norm, Parts, activate
from quantize.graphs.parts import FLOAT, INT64, Graph
from quantize.sources.checkpoint import Checkpoint, SourceError

EncoderTask = Literal["embedding", "classification", "token-classification", "rerank"]

# sentence-transformers' own additions to a model, as sources keep them beside its config and weights.
POOLING, DENSE_ACTIVATION, DENSE = "sentence_pooling", "sentence_dense_activation", "sentence_dense.linear"


class Head(Protocol):
    def wanted(self) -> str | None:
        """Tokens of the step whose last values are read; None: all."""
        ...

    def write(self, values: str) -> None:
        """From the last values of the tokens that are wanted to the graph's output."""
        ...


def choose_head(graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign, task: EncoderTask) -> Head:
    """Raises SourceError where the checkpoint has no head for the task."""
    if task == "embedding":
        return _Embedding(graph, checkpoint, parts, design)
    if task == "token-classification":
        return _Tokens(graph, checkpoint, parts, design)
    head = _Sequence(graph, checkpoint, parts, design)
    if task == "rerank" and head.labels != 1:
        raise SourceError(f"a model that ranks gives one number; this one has {head.labels} labels")
    return head


class _Embedding:
    def __init__(self, graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign) -> None:
        self._graph, self._checkpoint, self._parts = graph, checkpoint, parts
        self._pooling = checkpoint.config.get(POOLING, "mean")
        if self._pooling not in ("mean", "cls"):
            raise SourceError(f"the pooling {self._pooling!r} is not known; mean and cls are")
        self._has_dense = f"{DENSE}.weight" in checkpoint.tensors
        self._dim = checkpoint.tensor(f"{DENSE}.weight").shape[0] if self._has_dense else design.hidden

    def wanted(self) -> str | None:
        return first_tokens(self._graph) if self._pooling == "cls" else None

    def write(self, values: str) -> None:
        """The mean's divisor falls away at unit length, unless a matrix with a bias stands between."""
        graph, checkpoint = self._graph, self._checkpoint
        graph.output("embedding", FLOAT, ["B", self._dim])
        pooled = values if self._pooling == "cls" else pool(graph, values, divided=self._has_dense)
        if self._has_dense:
            bias = checkpoint.vector(f"{DENSE}.bias") if f"{DENSE}.bias" in checkpoint.tensors else None
            activation = checkpoint.config.get(DENSE_ACTIVATION)
            if activation not in (None, "tanh"):
                raise SourceError(f"the activation {activation!r} of a sentence's matrix is not known; tanh is")
            pooled = self._parts.project(pooled, Linear(checkpoint.tensor(f"{DENSE}.weight"), bias), activation)
        graph.node("LpNormalization", [pooled], ["embedding"], axis=1, p=2)


class _Labels:
    """What heads with labels have in common: their steps, all in full precision, for they are small and decide."""

    def __init__(
        self, graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign, *, steps: bool, out: str
    ) -> None:
        self._graph, self._checkpoint, self._parts, self._design = graph, checkpoint, parts, design
        self._steps, self._out = steps, out
        self.labels = checkpoint.tensor(f"{out}.weight").shape[0]

    def _write(self, values: str, dimension: str) -> None:
        graph, checkpoint, head = self._graph, self._checkpoint, self._design.head
        if self._steps:
            values = activate(graph, self._multiply(values, head.dense), head.activation)
            if head.norm:
                shift = f"{head.norm}.bias"
                bias = checkpoint.vector(shift) if shift in checkpoint.tensors else None
                values = self._parts.norm(values, None, Norm(checkpoint.vector(f"{head.norm}.weight"), bias))
        graph.output("logits", FLOAT, [dimension, self.labels])
        graph.node("Identity", [self._multiply(values, self._out)], ["logits"])

    def _multiply(self, values: str, name: str) -> str:
        graph, checkpoint, bias = self._graph, self._checkpoint, f"{name}.bias"
        inputs = [values, graph.constant(checkpoint.vector(f"{name}.weight"), shared=True)]
        if bias in checkpoint.tensors:
            inputs.append(graph.constant(checkpoint.vector(bias), shared=True))
        return graph.one("Gemm", *inputs, transB=1)


class _Sequence(_Labels):
    def __init__(self, graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign) -> None:
        super().__init__(graph, checkpoint, parts, design, steps=True, out=design.head.out)

    def wanted(self) -> str | None:
        return first_tokens(self._graph) if self._design.pooling == "cls" else None

    def write(self, values: str) -> None:
        self._write(values if self._design.pooling == "cls" else pool(self._graph, values, divided=True), "B")


class _Tokens(_Labels):
    def __init__(self, graph: Graph, checkpoint: Checkpoint, parts: Parts, design: EncoderDesign) -> None:
        super().__init__(graph, checkpoint, parts, design, steps=design.head.tokens_too, out="classifier")

    def wanted(self) -> None:
        return None

    def write(self, values: str) -> None:
        self._write(values, "T")


def first_tokens(graph: Graph) -> str:
    """[B]: each text's first token, among the step's."""
    return graph.one("Gather", "unpack_idx", graph.constant(np.array(0, np.int64)), axis=1)


def pool(graph: Graph, values: str, *, divided: bool) -> str:
    """Sums each text's own tokens; `divided` makes it their mean."""
    padded = graph.one("Gather", values, "unpack_idx", axis=0)
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    width = graph.one("Gather", graph.one("Shape", "unpack_idx"), one, axis=0)
    places = graph.one("Range", zero, width, one)
    ends = graph.one("Unsqueeze", graph.one("Cast", "lengths", to=INT64), graph.integers(1))
    inside = graph.one("Cast", graph.one("Less", places, ends), to=FLOAT)
    mask = graph.one("Unsqueeze", inside, graph.integers(1))
    total = graph.one("Squeeze", graph.one("MatMul", mask, padded), graph.integers(1))
    if not divided:
        return total
    return graph.one("Div", total, graph.one("Cast", ends, to=FLOAT))


def read_labels(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    """Names of the labels in their order, from the config; LABEL_0 … where it has none, as its makers call them."""
    names: dict[str, str] = checkpoint.config.get("id2label") or {}
    if names and set(names) != {str(place) for place in range(count)}:
        raise SourceError(f"config.id2label names {len(names)} labels, but the head has {count}")
    return tuple(names.get(str(place), f"LABEL_{place}") for place in range(count))
