"""A BERT encoder in packed form, with mean pooling and unit length inside: tokens in, one vector per text out."""

from dataclasses import replace

import numpy as np

from quantize.graphs.parts import CONTRIB, FLOAT, INT32, INT64, Graph, unpad
from quantize.lower import Lowering
from quantize.sources.checkpoint import Checkpoint, stack

# What the graph assumes; anything else in a config is refused by name instead of giving quietly wrong vectors.
_ASSUMED = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
}
_NEEDLESS = (r"pooler\.dense\.(weight|bias)", r"cls\..+")  # heads of its training; here the mean of all tokens counts


def build_bert(graph: Graph, checkpoint: Checkpoint, lowering: Lowering) -> None:
    """input_ids [T], position_ids [T], unpack_idx [B,S] (token of each padded place; any token for padding),
    pack_idx [T] (padded place of each token), lengths [B] → embedding [B, hidden].
    """
    checkpoint.setting("model_type")
    checkpoint.expect(_ASSUMED)
    checkpoint = replace(checkpoint)  # A fresh one: what is read of it from here on counts.
    hidden, heads = checkpoint.setting("hidden_size"), checkpoint.setting("num_attention_heads")
    epsilon = checkpoint.setting("layer_norm_eps")
    for name, kind, shape in (
        ("input_ids", INT64, ["T"]),
        ("position_ids", INT64, ["T"]),
        ("unpack_idx", INT64, ["B", "S"]),
        ("pack_idx", INT64, ["T"]),
        ("lengths", INT32, ["B"]),
    ):
        graph.input(name, kind, shape)
    graph.output("embedding", FLOAT, ["B", hidden])

    def weight(name: str) -> str:
        return graph.constant(checkpoint.vector(name), shared=True)

    def add_norm(stream: str, change: str, norm: str, bias: str = "") -> str:
        """LayerNorm(stream + change + bias)."""
        inputs = [stream, change, weight(f"{norm}.weight"), weight(f"{norm}.bias"), *([weight(bias)] if bias else [])]
        return graph.one("SkipLayerNormalization", *inputs, domain=CONTRIB, epsilon=epsilon)

    def multiply(values: str, *names: str) -> str:
        joined = stack([checkpoint.tensor(f"{name}.weight") for name in names])
        return lowering.multiply(lowering.rows(values), joined)

    def attention(prefix: str, values: str) -> str:
        names = [f"{prefix}.attention.self.{part}" for part in ("query", "key", "value")]
        padded = graph.one("Gather", multiply(values, *names), "unpack_idx", axis=0)
        query, key, value = graph.node("Split", [padded], 3, axis=2, num_outputs=3)
        bias = graph.constant(np.concatenate([checkpoint.vector(f"{name}.bias") for name in names]), shared=True)
        mixed = graph.one("MultiHeadAttention", query, key, value, bias, "lengths", domain=CONTRIB, num_heads=heads)
        return multiply(unpad(graph, mixed, "pack_idx", hidden), f"{prefix}.attention.output.dense")

    words = lowering.table("input_ids", checkpoint.tensor("embeddings.word_embeddings.weight"))
    # Every token has type 0 here, so its row is added to the positions once, at build time.
    places = checkpoint.vector("embeddings.position_embeddings.weight")
    places = places + checkpoint.vector("embeddings.token_type_embeddings.weight")[0]
    position = graph.one("Gather", graph.constant(places, shared=True), "position_ids", axis=0)
    stream = add_norm(words, position, "embeddings.LayerNorm")
    for layer in range(checkpoint.setting("num_hidden_layers")):
        prefix = f"encoder.layer.{layer}"
        mixed = attention(prefix, stream)
        stream = add_norm(
            stream, mixed, f"{prefix}.attention.output.LayerNorm", f"{prefix}.attention.output.dense.bias"
        )
        inner = multiply(stream, f"{prefix}.intermediate.dense")
        inner = graph.one("BiasGelu", inner, weight(f"{prefix}.intermediate.dense.bias"), domain=CONTRIB)
        change = multiply(inner, f"{prefix}.output.dense")
        stream = add_norm(stream, change, f"{prefix}.output.LayerNorm", f"{prefix}.output.dense.bias")
    _pool(graph, stream)
    checkpoint.refuse_unread(_NEEDLESS)


def _pool(graph: Graph, stream: str) -> None:
    """Sums each text's own tokens; the mean's divisor falls away when the vector is brought to unit length."""
    padded = graph.one("Gather", stream, "unpack_idx", axis=0)
    zero, one = (graph.constant(np.array(value, np.int64)) for value in (0, 1))
    width = graph.one("Gather", graph.one("Shape", "unpack_idx"), one, axis=0)
    places = graph.one("Range", zero, width, one)
    ends = graph.one("Unsqueeze", graph.one("Cast", "lengths", to=INT64), graph.integers(1))
    inside = graph.one("Cast", graph.one("Less", places, ends), to=FLOAT)
    mask = graph.one("Unsqueeze", inside, graph.integers(1))
    total = graph.one("Squeeze", graph.one("MatMul", mask, padded), graph.integers(1))
    graph.node("LpNormalization", [total], ["embedding"], axis=1, p=2)
