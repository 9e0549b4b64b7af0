"""What tells one family of decoders from another, as one description that the graph is written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantize.graphs.rotary import read_turns
from quantize.sources.checkpoint import Checkpoint, SourceError

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Layer:
    """`window`: how many tokens a token sees, itself included (None: all). `turns`: see `read_turns`."""

    window: int | None
    turns: tuple[float, ...]
    sparse: bool  # a router and experts in the place of one feed-forward network


@dataclass(frozen=True)
class Experts:
    """Each token is computed by the `chosen` likeliest of `count` experts; `to_one`: their shares sum to one."""

    count: int
    chosen: int
    to_one: bool


@dataclass(frozen=True)
class Design:
    """A decoder but for its weights."""

    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    epsilon: float
    score_scale: float  # of query · key
    tied: bool  # the head is the embedding table
    fine_head: bool  # what goes into the head has single numbers hundreds of times the others: 8 bits lose too much
    biases: bool  # on queries, keys and values
    head_norms: bool  # every query and key head is normalised before it turns
    outer_norms: bool  # attention and feed-forward are normalised again before they are added to the stream
    norm_offset: float  # what norms multiply by is this much more than the stored weight
    embedding_scale: float
    activation: Literal["silu", "gelu_tanh"]
    experts: Experts | None


@dataclass(frozen=True)
class _Family:
    """`assumed`: config fields that the graph takes as given, and their possible values (the first if left out)."""

    assumed: Mapping[str, tuple[Any, ...]]
    tied: bool = False  # where a config does not say
    biases: bool = False
    head_norms: bool = False
    sparse: bool = False
    gemma: bool = False  # windows, outer norms, and what goes with them


_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1.0,),
}
_FAMILIES: Mapping[str, _Family] = {
    "llama": _Family({**_PLAIN, "sliding_window": (None,)}),
    "qwen2": _Family({**_PLAIN, "attention_bias": (True,)}, biases=True),
    "qwen3": _Family(_PLAIN, head_norms=True),
    "qwen3_moe": _Family(_PLAIN, head_norms=True, sparse=True),
    "gemma3_text": _Family(
        {
            "hidden_activation": ("gelu_pytorch_tanh",),
            "attention_bias": (False,),
            "attn_logit_softcapping": (None,),
            "final_logit_softcapping": (None,),
            "use_bidirectional_attention": (False, None),
        },
        tied=True,
        head_norms=True,
        gemma=True,
    ),
}


def read_design(checkpoint: Checkpoint) -> Design:
    """Raises SourceError naming the field of the config that no graph here can be written for."""
    name, setting = checkpoint.setting("model_type"), checkpoint.setting
    if name not in _FAMILIES:
        raise SourceError(f"config.model_type is {name!r}; a decoder can be written for {', '.join(_FAMILIES)} only")
    family = _FAMILIES[name]
    checkpoint.expect(family.assumed)
    hidden, head_dim = setting("hidden_size"), head_size(checkpoint)
    scalar = checkpoint.config.get("query_pre_attn_scalar", head_dim) if family.gemma else head_dim
    return Design(
        layers=_read_layers(checkpoint, family, head_dim),
        heads=setting("num_attention_heads"),
        kv_heads=setting("num_key_value_heads"),
        head_dim=head_dim,
        positions=setting("max_position_embeddings"),
        epsilon=setting("rms_norm_eps"),
        score_scale=float(scalar**-0.5),
        tied=checkpoint.config.get("tie_word_embeddings", family.tied),
        fine_head=family.gemma,
        biases=family.biases,
        head_norms=family.head_norms,
        outer_norms=family.gemma,
        norm_offset=1.0 if family.gemma else 0.0,
        embedding_scale=hidden**0.5 if family.gemma else 1.0,
        activation="gelu_tanh" if family.gemma else "silu",
        experts=_read_experts(checkpoint) if family.sparse else None,
    )


def head_size(checkpoint: Checkpoint) -> int:
    own = checkpoint.config.get("head_dim")
    return int(own or checkpoint.setting("hidden_size") // checkpoint.setting("num_attention_heads"))


def _read_layers(checkpoint: Checkpoint, family: _Family, head_dim: int) -> tuple[Layer, ...]:
    config, count = checkpoint.config, checkpoint.setting("num_hidden_layers")
    # Gemma's older configs say only that every sixth layer sees everything.
    period = config.get("sliding_window_pattern", 6) if family.gemma else 1
    default = [SLIDING if (layer + 1) % period else FULL for layer in range(count)]
    kinds = config.get("layer_types") or default
    possible = {FULL, SLIDING} if family.gemma else {FULL}
    if len(kinds) != count or not possible.issuperset(kinds):
        raise SourceError(f"config.layer_types: {count} are needed, each one of {', '.join(sorted(possible))}")
    turns = {kind: read_turns(checkpoint, head_dim, kind) for kind in sorted(set(kinds))}
    dense = set(config.get("mlp_only_layers") or ())
    step = config.get("decoder_sparse_step", 1)
    return tuple(
        Layer(
            window=checkpoint.setting("sliding_window") if kind == SLIDING else None,
            turns=turns[kind],
            sparse=family.sparse and layer not in dense and (layer + 1) % step == 0,
        )
        for layer, kind in enumerate(kinds)
    )


def _read_experts(checkpoint: Checkpoint) -> Experts:
    """Newer versions of transformers call their number num_local_experts."""
    count = checkpoint.config.get("num_local_experts") or checkpoint.setting("num_experts")
    chosen = checkpoint.setting("num_experts_per_tok")
    if not 1 <= chosen <= count:
        raise SourceError(f"config.num_experts_per_tok is {chosen}, but there are {count} experts")
    return Experts(count, chosen, to_one=checkpoint.config.get("norm_topk_prob", False))
