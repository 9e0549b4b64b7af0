"""Decoders in packed form: only attention sees the padded [B, S] shape, all else the step's T tokens.

Inputs and outputs stand in `build_decoder`. Rotary positions, windows, the cache and the batch's uneven lengths are all
inside GroupQueryAttention; past and present keys and values may be one buffer.
"""

from dataclasses import replace

import numpy as np

from quantize.graphs.families import Design, Layer, read_design
from quantize.graphs.parts import CONTRIB, FLOAT, INT32, INT64, Graph, unpad
from quantize.graphs.rotary import rotary_tables
from quantize.graphs.router import write_experts
from quantize.lower import Lowering
from quantize.sources.checkpoint import Checkpoint, Floats, Tensor, stack

_NEEDLESS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # follows from rope_theta
_TIED_HEAD = r"lm_head\.weight"  # a copy of the embedding that some files keep


def build_decoder(graph: Graph, checkpoint: Checkpoint, lowering: Lowering) -> None:
    """input_ids [T], unpack_idx [B,S] (token of each padded place), pack_idx [T] (padded place of each token),
    logit_idx [R] (tokens whose logits are wanted), query_seqlens [B] (new tokens per row), seqlens_k [B] (length after
    the step minus 1), total_sequence_length [] (the cache's capacity C), past_key_values.{i}.{key,value} [B,kv,C,d]
    → logits [R, vocab] and present.{i}.{key,value}.
    """
    # A fresh checkpoint: what is read of it from here on counts.
    _Writer(graph, replace(checkpoint), lowering, read_design(checkpoint)).write()


class _Writer:
    def __init__(self, graph: Graph, checkpoint: Checkpoint, lowering: Lowering, design: Design) -> None:
        self._graph, self._checkpoint, self._lowering, self._design = graph, checkpoint, lowering, design
        self._tables: dict[tuple[float, ...], list[str]] = {}

    def write(self) -> None:
        graph, checkpoint, design = self._graph, self._checkpoint, self._design
        for name, kind, shape in (
            ("input_ids", INT64, ["T"]),
            ("unpack_idx", INT64, ["B", "S"]),
            ("pack_idx", INT64, ["T"]),
            ("logit_idx", INT64, ["R"]),
            ("query_seqlens", INT32, ["B"]),
            ("seqlens_k", INT32, ["B"]),
            ("total_sequence_length", INT32, []),
        ):
            graph.input(name, kind, shape)
        graph.output("logits", FLOAT, ["R", checkpoint.setting("vocab_size")])
        embedded = checkpoint.tensor("model.embed_tokens.weight")
        stream = self._lowering.table("input_ids", embedded, fine=design.fine_head)
        if design.embedding_scale != 1:
            stream = graph.one("Mul", stream, graph.number(design.embedding_scale))
        normed = self._norm(stream, "model.layers.0.input_layernorm")
        for place, layer in enumerate(design.layers):
            normed, stream = self._write_layer(place, layer, normed, stream)
        head = embedded if design.tied else checkpoint.tensor("lm_head.weight")
        logits = self._lowering.head(normed, head, fine=design.fine_head)
        graph.node("Identity", [logits], ["logits"])
        checkpoint.refuse_unread([*_NEEDLESS, _TIED_HEAD] if design.tied else _NEEDLESS)

    def _write_layer(self, place: int, layer: Layer, normed: str, stream: str) -> tuple[str, str]:
        """From a layer's normalised input and the stream to the next one's; after the last only `logit_idx` is left."""
        prefix, outer = f"model.layers.{place}", self._design.outer_norms
        last = place + 1 == len(self._design.layers)
        tokens = "pack_idx"
        if last:  # Nobody attends to what comes after the last attention, so only what is wanted is computed.
            tokens = self._graph.one("Gather", "pack_idx", "logit_idx", axis=0)
            stream = self._graph.one("Gather", stream, "logit_idx", axis=0)
        change = self._attention(place, layer, normed, tokens)
        if outer:
            change = self._norm(change, f"{prefix}.post_attention_layernorm")
        between = "pre_feedforward_layernorm" if outer else "post_attention_layernorm"
        normed, stream = self._add_norm(stream, change, f"{prefix}.{between}")
        change = self._feed_forward(f"{prefix}.mlp", layer, normed)
        if outer:
            change = self._norm(change, f"{prefix}.post_feedforward_layernorm")
        return self._add_norm(stream, change, "model.norm" if last else f"model.layers.{place + 1}.input_layernorm")

    def _attention(self, place: int, layer: Layer, values: str, tokens: str) -> str:
        """`tokens`: padded places of those tokens that are wanted."""
        graph, design, checkpoint = self._graph, self._design, self._checkpoint
        prefix = f"model.layers.{place}.self_attn"
        packed = self._lowering.multiply(
            self._lowering.rows(values), self._stack(*(f"{prefix}.{part}_proj" for part in "qkv"))
        )
        if design.biases:
            biases = np.concatenate([checkpoint.vector(f"{prefix}.{part}_proj.bias") for part in "qkv"])
            packed = graph.one("Add", packed, graph.constant(biases, shared=True))
        if design.head_norms:
            packed = self._norm_heads(prefix, packed)
        padded = graph.one("Gather", packed, "unpack_idx", axis=0)
        if design.head_norms:
            padded = graph.one("Reshape", padded, graph.integers(0, 0, -1))
        shape: list[str | int] = ["B", design.kv_heads, "C", design.head_dim]
        past = [graph.input(f"past_key_values.{place}.{part}", FLOAT, shape) for part in ("key", "value")]
        present = [f"present.{place}.{part}" for part in ("key", "value")]
        for name in present:
            graph.output(name, FLOAT, shape)
        mixed = graph.fresh("attended")
        lengths, tables = ["seqlens_k", "total_sequence_length"], self._rotary(layer)
        graph.node(
            "GroupQueryAttention",
            [padded, "", "", *past, *lengths, *tables, *[""] * 7, "query_seqlens"],
            [mixed, *present],
            CONTRIB,
            num_heads=design.heads,
            kv_num_heads=design.kv_heads,
            do_rotary=1,
            scale=design.score_scale,
            **({"local_window_size": layer.window} if layer.window else {}),
        )
        flat = unpad(graph, mixed, tokens, design.heads * design.head_dim)
        return self._lowering.multiply(self._lowering.rows(flat), checkpoint.tensor(f"{prefix}.o_proj.weight"))

    def _norm_heads(self, prefix: str, packed: str) -> str:
        """Normalises query and key heads, all in one node: [T, heads * d] → [T, heads, d], value heads as they are."""
        graph, design = self._graph, self._design
        query, key = (self._scale(f"{prefix}.{part}_norm") for part in "qk")
        scales = np.concatenate([np.tile(query, (design.heads, 1)), np.tile(key, (design.kv_heads, 1))])
        heads = graph.one("Reshape", packed, graph.integers(0, -1, design.head_dim))
        sizes = graph.integers(design.heads + design.kv_heads, design.kv_heads)
        turned, value = graph.node("Split", [heads, sizes], 2, axis=1)
        scale = graph.constant(scales, shared=True)
        turned = graph.one("RMSNormalization", turned, scale, axis=-1, epsilon=design.epsilon)
        return graph.one("Concat", turned, value, axis=1)

    def _rotary(self, layer: Layer) -> list[str]:
        """Layers that turn alike share their tables."""
        if layer.turns not in self._tables:
            tables = rotary_tables(layer.turns, self._design.positions)
            self._tables[layer.turns] = [self._graph.constant(table, shared=True) for table in tables]
        return self._tables[layer.turns]

    def _feed_forward(self, prefix: str, layer: Layer, values: str) -> str:
        experts = self._design.experts
        if layer.sparse and experts:
            return write_experts(
                self._graph, self._lowering, values, checkpoint=self._checkpoint, experts=experts, prefix=prefix
            )
        graph, lowering = self._graph, self._lowering
        both = lowering.multiply(lowering.rows(values), self._stack(f"{prefix}.gate_proj", f"{prefix}.up_proj"))
        gate, up = graph.node("Split", [both], 2, axis=1, num_outputs=2)
        inner = graph.one("Mul", self._activate(gate), up)
        return lowering.multiply(lowering.rows(inner), self._checkpoint.tensor(f"{prefix}.down_proj.weight"))

    def _activate(self, gate: str) -> str:
        if self._design.activation == "silu":
            return self._graph.one("QuickGelu", gate, domain=CONTRIB, alpha=1.0)
        return self._graph.one("FastGelu", gate, domain=CONTRIB)

    def _norm(self, values: str, name: str) -> str:
        scale = self._graph.constant(self._scale(name), shared=True)
        return self._graph.one("RMSNormalization", values, scale, epsilon=self._design.epsilon)

    def _add_norm(self, stream: str, change: str, name: str) -> tuple[str, str]:
        """(normalised sum, the sum itself)."""
        graph = self._graph
        normed, total = graph.fresh("normed"), graph.fresh("stream")
        graph.node(
            "SkipSimplifiedLayerNormalization",
            [stream, change, graph.constant(self._scale(name), shared=True)],
            [normed, "", "", total],
            CONTRIB,
            epsilon=self._design.epsilon,
        )
        return normed, total

    def _scale(self, name: str) -> Floats:
        return self._checkpoint.vector(f"{name}.weight") + np.float32(self._design.norm_offset)

    def _stack(self, *names: str) -> Tensor:
        return stack([self._checkpoint.tensor(f"{name}.weight") for name in names])
