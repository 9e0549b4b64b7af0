"""Decoders written with our own operators (`kernels`): five nodes a layer, everything in whole numbers but the stream.

The same families as in `decoder`, from the same description; only a network of experts has no operator here.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kernels.library import DOMAIN
from kernels.packing import pack4, pack8, quantize8, tile_bytes, units
from quantize.graphs.families import Design, Layer, read_design
from quantize.graphs.parts import FLOAT, INT32, INT64, UINT8, Graph
from quantize.graphs.rotary import rotary_tables
from quantize.rounding import round_q4
from quantize.sources.checkpoint import Q4, Checkpoint, Floats, SourceError, Tensor, dense, stack

_NEEDLESS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # follows from rope_theta
_TIED_HEAD = r"lm_head\.weight"  # a copy of the embedding that some files keep
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
_HEAD_MAX = 256


def build_kernel_decoder(graph: Graph, checkpoint: Checkpoint, bits: int) -> None:
    """input_ids [T], sequences int32 [B,4] (slot, tokens it has, new tokens, its first among the T), logit_idx [R]
    (tokens whose logits are wanted), past_key_values.{i}.{key,value} uint8 [slots, kv_heads, tiles, tile bytes]
    → logits [R, vocab] and present.{i}.{key,value}, which are the memory of the past.

    With 4 `bits`, a source's own 4-bit blocks are kept exactly and its finer tensors in 8 bits; a source that has none
    is rounded, all but the embedding and the head. Raises SourceError for what the operators cannot do.
    """
    # A fresh checkpoint: what is read of it from here on counts.
    _Writer(graph, replace(checkpoint), bits, read_design(checkpoint)).write()


class _Writer:
    def __init__(self, graph: Graph, checkpoint: Checkpoint, bits: int, design: Design) -> None:
        self._graph, self._checkpoint, self._design = graph, checkpoint, design
        self._tables: dict[tuple[float, ...], list[str]] = {}
        has_q4 = any(isinstance(tensor, Q4) for tensor in checkpoint.tensors.values())
        self._keep4, self._round4 = bits == 4, bits == 4 and not has_q4
        if any(layer.sparse for layer in design.layers):
            raise SourceError("a network of experts has no operator here: use a lane of ONNX Runtime's operators")
        if design.head_dim % 32 or design.head_dim > _HEAD_MAX:
            raise SourceError(
                f"heads of {design.head_dim} numbers: only multiples of 32 up to {_HEAD_MAX} can be attended"
            )

    def write(self) -> None:
        graph, checkpoint, design = self._graph, self._checkpoint, self._design
        vocab = checkpoint.setting("vocab_size")
        graph.input("input_ids", INT64, ["T"])
        graph.input("sequences", INT32, ["B", 4])
        graph.input("logit_idx", INT64, ["R"])
        graph.output("logits", FLOAT, ["R", vocab])
        embedded = checkpoint.tensor("model.embed_tokens.weight")
        table = self._matrix(embedded, shared=True, exact=True)
        stream = self._node("LookUp", ["input_ids", table], width=vocab, factor=design.embedding_scale)[0]
        rows = self._add_norm([stream, self._scale("model.layers.0.input_layernorm")])[0]
        for place, layer in enumerate(design.layers):
            rows, stream = self._write_layer(place, layer, rows, stream)
        head = table if design.tied else self._matrix(checkpoint.tensor("lm_head.weight"), exact=True)
        self._node("MatMulBlocks", [rows, head], ["logits"], width=vocab)
        checkpoint.refuse_unread([*_NEEDLESS, _TIED_HEAD] if design.tied else _NEEDLESS)

    def _write_layer(self, place: int, layer: Layer, rows: str, stream: str) -> tuple[str, str]:
        """From a layer's normalised input and the stream to the next one's; after the last only `logit_idx` is left."""
        prefix, outer = f"model.layers.{place}", self._design.outer_norms
        last = place + 1 == len(self._design.layers)
        rows = self._attention(place, layer, rows)
        if last:  # Nobody attends to what comes after the last attention, so only what is wanted is computed.
            rows, stream = (self._graph.one("Gather", each, "logit_idx", axis=0) for each in (rows, stream))
        change = self._multiply(rows, [f"{prefix}.self_attn.o_proj"])
        own = [self._scale(f"{prefix}.post_attention_layernorm")] if outer else []
        between = self._scale(f"{prefix}.{'pre_feedforward' if outer else 'post_attention'}_layernorm")
        rows, stream = self._add_norm([stream, between, change, *own])
        change = self._feed_forward(f"{prefix}.mlp", rows)
        own = [self._scale(f"{prefix}.post_feedforward_layernorm")] if outer else []
        after = self._scale("model.norm" if last else f"model.layers.{place + 1}.input_layernorm")
        rows, stream = self._add_norm([stream, after, change, *own])
        return rows, stream

    def _attention(self, place: int, layer: Layer, rows: str) -> str:
        graph, design, prefix = self._graph, self._design, f"model.layers.{place}.self_attn"
        numbers = self._multiply(rows, [f"{prefix}.{part}_proj" for part in "qkv"], biased=design.biases)
        shape: list[int | str] = ["slots", design.kv_heads, "tiles", tile_bytes(design.head_dim)]
        past = [graph.input(f"past_key_values.{place}.{part}", UINT8, shape) for part in ("key", "value")]
        present = [f"present.{place}.{part}" for part in ("key", "value")]
        for name in present:
            graph.output(name, UINT8, shape)
        norms = [self._scale(f"{prefix}.{part}_norm") for part in "qk"] if design.head_norms else []
        return self._node(
            "CachedAttention",
            [numbers, "sequences", *self._rotary(layer), *past, *norms],
            [graph.fresh("attended"), *present],
            heads=design.heads,
            kv_heads=design.kv_heads,
            scale=design.score_scale,
            epsilon=design.epsilon,
            window=layer.window or 0,
        )[0]

    def _feed_forward(self, prefix: str, rows: str) -> str:
        gate, up = (self._checkpoint.tensor(f"{prefix}.{part}_proj.weight") for part in ("gate", "up"))
        if gate.shape[0] % 32:
            raise SourceError(f"{prefix}: an inner width of {gate.shape[0]}; only multiples of 32 can be computed")
        both = _take(stack([gate, up]), units(gate.shape[0]))
        inner = self._node("GateUp", [rows, self._matrix(both)], activation=_ACTIVATIONS[self._design.activation])[0]
        return self._multiply(inner, [f"{prefix}.down_proj"])

    def _multiply(self, rows: str, names: Sequence[str], *, biased: bool = False) -> str:
        """By matrices that stand one under another."""
        joined = stack([self._checkpoint.tensor(f"{name}.weight") for name in names])
        inputs = [rows, self._matrix(joined)]
        if biased:
            bias = np.concatenate([self._checkpoint.vector(f"{name}.bias") for name in names])
            inputs.append(self._graph.constant(bias, shared=True))
        return self._node("MatMulBlocks", inputs, width=joined.shape[0])[0]

    def _matrix(self, tensor: Tensor, *, shared: bool = False, exact: bool = False) -> str:
        """`exact`: not rounded to 4 bits; `shared`: with other lanes of this form."""
        if tensor.shape[1] % 32:
            raise SourceError(
                f"a matrix has rows of {tensor.shape[1]} values; only multiples of 32 can be kept in blocks"
            )
        if self._round4 and not exact and not isinstance(tensor, Q4):
            tensor = round_q4(tensor)
        if self._keep4 and isinstance(tensor, Q4):
            return self._graph.constant(pack4(tensor.codes, tensor.scale, tensor.low), shared=shared)
        return self._graph.constant(pack8(*quantize8(dense(tensor))), shared=shared)

    def _add_norm(self, inputs: Sequence[str]) -> list[str]:
        """[normalised rows], and with a change the sum too."""
        return self._node("AddNormQuantize", inputs, 1 if len(inputs) == 2 else 2, epsilon=self._design.epsilon)

    def _scale(self, name: str) -> str:
        values: Floats = self._checkpoint.vector(f"{name}.weight") + np.float32(self._design.norm_offset)
        return self._graph.constant(values, shared=True)

    def _rotary(self, layer: Layer) -> list[str]:
        """Layers that turn alike share their tables."""
        if layer.turns not in self._tables:
            tables = rotary_tables(layer.turns, self._design.positions)
            self._tables[layer.turns] = [self._graph.constant(table, shared=True) for table in tables]
        return self._tables[layer.turns]

    def _node(
        self, kind: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attributes: float
    ) -> list[str]:
        return self._graph.node(kind, inputs, outputs, DOMAIN, **attributes)


def _take(tensor: Tensor, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Tensor:
    return tensor.take(order) if isinstance(tensor, Q4) else tensor[order]
