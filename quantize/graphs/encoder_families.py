"""What tells one family of encoders from another, as one description that the graph is written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quantize.graphs.families import FULL, SLIDING
from quantize.graphs.rotary import read_turns
from quantize.sources.checkpoint import Checkpoint, SourceError

Activation = Literal["gelu", "gelu_tanh", "relu", "tanh"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Names:
    """Where a family keeps its tensors; the last eight stand below each layer's own prefix ("" leaves a part out)."""

    base: str  # some checkpoints put the encoder under its class's name
    words: str
    positions: str
    types: str
    norm: str
    layer: str
    joint: tuple[str, ...]  # queries, keys and values, in one matrix or in three
    mix: str
    mix_norm: str
    inner: str
    outer: str
    outer_norm: str
    final_norm: str = ""


@dataclass(frozen=True)
class SequenceHead:
    """From the first token (or the mean of all) to one number per label: dense, activation, perhaps a norm, out."""

    dense: str
    activation: Activation
    out: str
    norm: str = ""
    tokens_too: bool = False  # the same for every token where tokens are labelled; else only `classifier`


@dataclass(frozen=True)
class EncoderLayer:
    """`window`: how far a token sees to either side (None: everything). `turns`: see `read_turns`; () turns nothing."""

    window: int | None = None
    turns: tuple[float, ...] = ()


@dataclass(frozen=True)
class EncoderDesign:
    """An encoder but for its weights."""

    names: Names
    head: SequenceHead
    layers: tuple[EncoderLayer, ...]
    hidden: int
    heads: int
    vocab: int
    positions: int  # tokens that a text may have
    first_position: int  # row of the position table that a text begins with
    types: int  # kinds of tokens that pairs of texts are told apart by
    epsilon: float
    activation: Activation
    buckets: int  # of relative positions, each with its own bias; 0: none
    pre_norm: bool  # norms stand before attention and feed-forward instead of after
    gated: bool  # the feed-forward's first matrix holds values and their gates
    pooling: Literal["cls", "mean"]  # what a sequence head reads
    needless: tuple[str, ...]  # patterns of tensors that training needed and no answer does


@dataclass(frozen=True)
class _Family:
    names: Names
    head: SequenceHead
    assumed: Mapping[str, tuple[Any, ...]]  # config fields that the graph takes as given, and their possible values
    needless: tuple[str, ...]
    padded_positions: bool = False  # the rows of the position table up to the padding token's id are no positions
    relative: bool = False
    modern: bool = False  # rotary, windows, gates, norms before, no biases


_BERT_LAYER: Mapping[str, Any] = {
    "layer": "encoder.layer",
    "joint": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
_BERT_TABLES: Mapping[str, Any] = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "norm": "embeddings.LayerNorm",
}
_TYPES = "embeddings.token_type_embeddings"
_POOLER = r"pooler\.dense\.(weight|bias)"  # reads the first token; of what we compute, only BERT's own head needs it
_ROBERTA_HEAD = SequenceHead("classifier.dense", "tanh", "classifier.out_proj")
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}
_BERT = _Family(
    Names(base="bert.", types=_TYPES, **_BERT_TABLES, **_BERT_LAYER),
    SequenceHead("pooler.dense", "tanh", "classifier"),
    _PLAIN,
    (_POOLER, r"cls\..+"),
)
_ROBERTA = _Family(
    Names(base="roberta.", types=_TYPES, **_BERT_TABLES, **_BERT_LAYER),
    _ROBERTA_HEAD,
    _PLAIN,
    (_POOLER, r"lm_head\..+"),
    padded_positions=True,
)
_FAMILIES: Mapping[str, _Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": _Family(
        Names(
            base="distilbert.",
            types="",
            **_BERT_TABLES,
            layer="transformer.layer",
            joint=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
            mix="attention.out_lin",
            mix_norm="sa_layer_norm",
            inner="ffn.lin1",
            outer="ffn.lin2",
            outer_norm="output_layer_norm",
        ),
        SequenceHead("pre_classifier", "relu", "classifier"),
        {},
        (r"vocab_(transform|layer_norm|projector)\..+",),
    ),
    "mpnet": _Family(
        Names(
            base="mpnet.",
            types="",
            **_BERT_TABLES,
            **{
                **_BERT_LAYER,
                "joint": ("attention.attn.q", "attention.attn.k", "attention.attn.v"),
                "mix": "attention.attn.o",
                "mix_norm": "attention.LayerNorm",
            },
        ),
        _ROBERTA_HEAD,
        {},
        (_POOLER, r"lm_head\..+"),
        padded_positions=True,
        relative=True,
    ),
    "modernbert": _Family(
        Names(
            base="model.",
            words="embeddings.tok_embeddings",
            positions="",
            types="",
            norm="embeddings.norm",
            layer="layers",
            joint=("attn.Wqkv",),
            mix="attn.Wo",
            mix_norm="mlp_norm",
            inner="mlp.Wi",
            outer="mlp.Wo",
            outer_norm="attn_norm",
            final_norm="final_norm",
        ),
        SequenceHead("head.dense", "gelu", "classifier", norm="head.norm", tokens_too=True),
        {"classifier_activation": ("gelu",)},
        (r"head\.(dense|norm)\.(weight|bias)", r"decoder\.(weight|bias)"),
        modern=True,
    ),
}


def read_encoder(checkpoint: Checkpoint) -> EncoderDesign:
    """Raises SourceError naming the field of the config that no graph here can be written for."""
    name, setting, config = checkpoint.setting("model_type"), checkpoint.setting, checkpoint.config
    if name not in _FAMILIES:
        raise SourceError(f"config.model_type is {name!r}; an encoder can be written for {', '.join(_FAMILIES)} only")
    family = _FAMILIES[name]
    checkpoint.expect(family.assumed)
    distil = name == "distilbert"  # whose config has names of its own
    hidden = setting("dim" if distil else "hidden_size")
    heads = setting("n_heads" if distil else "num_attention_heads")
    layers = setting("n_layers" if distil else "num_hidden_layers")
    field = "activation" if distil else "hidden_activation" if family.modern else "hidden_act"
    activation = config.get(field, "gelu")
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise SourceError(f"config.{field} is {activation!r}; an encoder can be written for {known} only")
    if hidden % heads:
        raise SourceError(f"config: {hidden} numbers of a token do not divide into {heads} heads")
    # MPNet's padding token is 1 by its code, whatever a config says.
    first = (1 if family.relative else config.get("pad_token_id", 1)) + 1 if family.padded_positions else 0
    return EncoderDesign(
        names=family.names,
        head=family.head,
        layers=_read_modern(checkpoint, layers, hidden // heads) if family.modern else (EncoderLayer(),) * layers,
        hidden=hidden,
        heads=heads,
        vocab=setting("vocab_size"),
        positions=setting("max_position_embeddings") - first,
        first_position=first,
        types=config.get("type_vocab_size", 2) if family.names.types else 0,
        epsilon=config.get("norm_eps", 1e-5) if family.modern else config.get("layer_norm_eps", 1e-12),
        activation=_ACTIVATIONS[activation],
        buckets=config.get("relative_attention_num_buckets", 32) if family.relative else 0,
        pre_norm=family.modern,
        gated=family.modern,
        pooling=_pooling(config.get("classifier_pooling", "cls")) if family.modern else "cls",
        needless=family.needless,
    )


def _read_modern(checkpoint: Checkpoint, count: int, head_dim: int) -> tuple[EncoderLayer, ...]:
    """ModernBERT's: every third layer sees everything, the others half of `local_attention` to either side."""
    config = dict(checkpoint.config)
    period = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [SLIDING if layer % period else FULL for layer in range(count)]
    if len(kinds) != count or not {FULL, SLIDING}.issuperset(kinds):
        raise SourceError(f"config.layer_types: {count} are needed, each one of {FULL}, {SLIDING}")
    if not config.get("rope_parameters"):
        # The thetas of older configs, brought to where newer ones have them.
        config["rope_parameters"] = {
            FULL: {"rope_theta": config.get("global_rope_theta", 160_000.0)},
            SLIDING: {"rope_theta": config.get("local_rope_theta") or 10_000.0},
        }
    newer = Checkpoint(config, {}, "")
    turns = {kind: read_turns(newer, head_dim, kind) for kind in sorted(set(kinds))}
    window = config.get("local_attention", 128) // 2
    return tuple(EncoderLayer(window if kind == SLIDING else None, turns[kind]) for kind in kinds)


def _pooling(name: str) -> Literal["cls", "mean"]:
    if name == "cls":
        return "cls"
    if name == "mean":
        return "mean"
    raise SourceError(f"config.classifier_pooling is {name!r}; cls and mean are known")
