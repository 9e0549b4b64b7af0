"""The Llama family's decoder in packed form: only attention sees the padded [B, S] shape, all else the step's T tokens.

Inputs and outputs stand in `build_llama`. Rotary positions, the cache and the batch's uneven lengths are all inside
GroupQueryAttention; past and present keys and values may be one buffer.
"""

from dataclasses import replace

import numpy as np

from quantize.graphs.parts import CONTRIB, FLOAT, INT32, INT64, Graph, unpad
from quantize.lower import Lowering
from quantize.sources.checkpoint import Checkpoint, Floats, SourceError, stack

# What the graph assumes; anything else in a config is refused by name instead of giving quietly wrong answers.
_ASSUMED = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "pretraining_tp": (1,),
}
_NEEDLESS = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)  # follows from rope_theta
_TIED_HEAD = r"lm_head\.weight"  # a copy of the embedding that some files keep


def build_llama(graph: Graph, checkpoint: Checkpoint, lowering: Lowering) -> None:
    """input_ids [T], unpack_idx [B,S] (token of each padded place), pack_idx [T] (padded place of each token),
    logit_idx [R] (tokens whose logits are wanted), query_seqlens [B] (new tokens per row), seqlens_k [B] (length after
    the step minus 1), total_sequence_length [] (the cache's capacity C), past_key_values.{i}.{key,value} [B,kv,C,d]
    → logits [R, vocab] and present.{i}.{key,value}.
    """
    _check(checkpoint)
    checkpoint = replace(checkpoint)  # A fresh one: what is read of it from here on counts.
    heads, kv_heads = checkpoint.setting("num_attention_heads"), checkpoint.setting("num_key_value_heads")
    head_dim, epsilon = head_size(checkpoint), checkpoint.setting("rms_norm_eps")
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
    cosines, sines = (graph.constant(part, shared=True) for part in rotary_tables(checkpoint))

    def weight(name: str) -> str:
        return graph.constant(checkpoint.vector(name), shared=True)

    def add_norm(stream: str, change: str, scale: str) -> tuple[str, str]:
        """(normalised sum, the sum itself)."""
        normed, total = graph.fresh("normed"), graph.fresh("stream")
        graph.node(
            "SkipSimplifiedLayerNormalization",
            [stream, change, weight(scale)],
            [normed, "", "", total],
            CONTRIB,
            epsilon=epsilon,
        )
        return normed, total

    def attention(layer: int, values: str) -> str:
        prefix = f"model.layers.{layer}.self_attn"
        joined = stack([checkpoint.tensor(f"{prefix}.{part}_proj.weight") for part in "qkv"])
        mixed = graph.fresh("attended")
        packed = lowering.multiply(lowering.rows(values), joined)
        shape = ["B", kv_heads, "C", head_dim]
        past = [graph.input(f"past_key_values.{layer}.{part}", FLOAT, shape) for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        for name in present:
            graph.output(name, FLOAT, shape)
        padded = graph.one("Gather", packed, "unpack_idx", axis=0)
        graph.node(
            "GroupQueryAttention",
            [padded, "", "", *past, "seqlens_k", "total_sequence_length", cosines, sines, *[""] * 7, "query_seqlens"],
            [mixed, *present],
            CONTRIB,
            num_heads=heads,
            kv_num_heads=kv_heads,
            do_rotary=1,
        )
        flat = unpad(graph, mixed, "pack_idx", heads * head_dim)
        return lowering.multiply(lowering.rows(flat), checkpoint.tensor(f"{prefix}.o_proj.weight"))

    def feed_forward(layer: int, values: str) -> str:
        prefix = f"model.layers.{layer}.mlp"
        joined = stack([checkpoint.tensor(f"{prefix}.{part}_proj.weight") for part in ("gate", "up")])
        both = lowering.multiply(lowering.rows(values), joined)
        gate, up = graph.node("Split", [both], 2, axis=1, num_outputs=2)
        inner = graph.one("Mul", graph.one("QuickGelu", gate, domain=CONTRIB, alpha=1.0), up)
        return lowering.multiply(lowering.rows(inner), checkpoint.tensor(f"{prefix}.down_proj.weight"))

    embedded = checkpoint.tensor("model.embed_tokens.weight")
    stream = lowering.table("input_ids", embedded)
    normed = graph.one("RMSNormalization", stream, weight("model.layers.0.input_layernorm.weight"), epsilon=epsilon)
    layers = checkpoint.setting("num_hidden_layers")
    for layer in range(layers):
        after = f"model.layers.{layer}.post_attention_layernorm.weight"
        normed, stream = add_norm(stream, attention(layer, normed), after)
        last = layer + 1 == layers
        after = "model.norm.weight" if last else f"model.layers.{layer + 1}.input_layernorm.weight"
        normed, stream = add_norm(stream, feed_forward(layer, normed), after)
    wanted = graph.one("Gather", normed, "logit_idx", axis=0)
    tied = checkpoint.config.get("tie_word_embeddings", False)
    logits = lowering.head(wanted, embedded if tied else checkpoint.tensor("lm_head.weight"))
    graph.node("Identity", [logits], ["logits"])
    checkpoint.refuse_unread([*_NEEDLESS, _TIED_HEAD] if tied else _NEEDLESS)


def head_size(checkpoint: Checkpoint) -> int:
    own = checkpoint.config.get("head_dim")
    return int(own or checkpoint.setting("hidden_size") // checkpoint.setting("num_attention_heads"))


def rope_theta(checkpoint: Checkpoint) -> float:
    """Newer configs keep it under rope_parameters, older ones at the top."""
    parameters = checkpoint.config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta") or checkpoint.setting("rope_theta"))


def rotary_tables(checkpoint: Checkpoint) -> tuple[Floats, Floats]:
    """Cosines and sines [positions, head_dim / 2], computed in float64."""
    half = head_size(checkpoint) // 2
    turns = rope_theta(checkpoint) ** (-np.arange(half) / half)
    angles = np.outer(np.arange(checkpoint.setting("max_position_embeddings")), turns)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _check(checkpoint: Checkpoint) -> None:
    checkpoint.setting("model_type")
    checkpoint.expect(_ASSUMED)
    kind = (checkpoint.config.get("rope_parameters") or {}).get("rope_type", "default")
    if kind != "default":
        raise SourceError(f"config.rope_parameters.rope_type is {kind!r}; this decoder supports 'default' only")
