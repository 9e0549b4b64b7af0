"""Reads a GGUF file of the llama family with the `gguf` package and numpy: seconds, and no torch."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize

from quantize.sources.bpe import bpe_tokenizer
from quantize.sources.checkpoint import Q4, Q4_BLOCK, Checkpoint, SourceError, Tensor

# GGUF's names beside Hugging Face's, for the llama architecture.
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_gguf(path: Path) -> Checkpoint:
    """The checkpoint of a llama-architecture file with a gpt2 (byte-level BPE) tokenizer. Raises SourceError."""
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:  # What the reader trips over in a file that is cut or no GGUF.
        raise SourceError(f"{path.name}: not a whole GGUF file ({error})") from None
    fields = _Fields(reader)
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise SourceError(f"{path.name}: general.architecture is {architecture!r}; only 'llama' can be read")
    config = _config(fields)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tensors: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        name = _rename(tensor.name)
        values = _values(tensor)
        if name.endswith("q_proj.weight"):
            values = _unpermute(values, heads)
        elif name.endswith("k_proj.weight"):
            values = _unpermute(values, kv_heads)
        tensors[name] = values
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    return Checkpoint(config, tensors, _tokenizer(fields), fields.get("tokenizer.chat_template", None))


class _Fields:
    """Metadata by key; a missing key without a default is the file's fault and says so."""

    _NEEDED = object()

    def __init__(self, reader: GGUFReader) -> None:
        self._reader = reader

    def get(self, key: str, default: Any = _NEEDED) -> Any:
        field = self._reader.get_field(key)
        if field is not None:
            return field.contents()
        if default is self._NEEDED:
            raise SourceError(f"the GGUF file has no metadata {key!r}")
        return default


def _config(fields: _Fields) -> dict[str, Any]:
    heads = fields.get("llama.attention.head_count")
    hidden = fields.get("llama.embedding_length")
    if fields.get("llama.rope.scaling.type", "none") != "none":
        raise SourceError("llama.rope.scaling.type: scaled rotary positions are not supported")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": fields.get("llama.feed_forward_length"),
        "num_hidden_layers": fields.get("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": fields.get("llama.rope.dimension_count", hidden // heads),
        "max_position_embeddings": fields.get("llama.context_length"),
        "rms_norm_eps": float(np.float32(fields.get("llama.attention.layer_norm_rms_epsilon"))),
        "rope_theta": fields.get("llama.rope.freq_base", 10000.0),
        "vocab_size": len(fields.get("tokenizer.ggml.tokens")),
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id", None),
        "eos_token_id": fields.get("tokenizer.ggml.eos_token_id"),
    }


def _rename(name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, kind] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.{kind}"
    raise SourceError(f"the GGUF file holds a tensor of no known place: {name!r}")


def _values(tensor: ReaderTensor) -> Tensor:
    kind, data = tensor.tensor_type, tensor.data
    shape = tuple(int(n) for n in reversed(tensor.shape))
    if kind in {GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1}:
        return q4_blocks(np.asarray(data).reshape(shape[0], -1), with_low=kind == GGMLQuantizationType.Q4_1)
    return np.ascontiguousarray(dequantize(data, kind), dtype=np.float32).reshape(shape)


def q4_blocks(raw: np.ndarray[Any, np.dtype[np.uint8]], *, with_low: bool) -> Q4:
    """Splits packed rows uint8 [rows, bytes]: per block an f16 scale, an f16 low value (Q4_1 only), 16 bytes of codes.

    Byte j holds weight j in its low and weight j+16 in its high nibble; without a low value the codes are centred on 8.
    """
    width = (4 if with_low else 2) + Q4_BLOCK // 2
    blocks = raw.reshape(raw.shape[0], -1, width)
    scale = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    nibbles = blocks[:, :, -Q4_BLOCK // 2 :]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    if with_low:
        low = np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0].astype(np.float32)
    else:
        low = scale * np.float32(-8)
    return Q4(codes, scale, low)


def _unpermute(tensor: Tensor, heads: int) -> Tensor:
    """GGUF interleaves the two halves that rotary positions turn against each other; Hugging Face keeps them apart."""
    count = tensor.shape[0]
    rows = np.arange(count).reshape(heads, count // heads // 2, 2).swapaxes(1, 2).reshape(-1)
    return tensor.take(rows) if isinstance(tensor, Q4) else tensor[rows]


def _tokenizer(fields: _Fields) -> str:
    model = fields.get("tokenizer.ggml.model")
    if model != "gpt2":
        raise SourceError(f"tokenizer.ggml.model is {model!r}; only 'gpt2' (byte-level BPE) can be rebuilt")
    return bpe_tokenizer(
        tokens=fields.get("tokenizer.ggml.tokens"),
        kinds=fields.get("tokenizer.ggml.token_type"),
        merges=fields.get("tokenizer.ggml.merges"),
        splitting=fields.get("tokenizer.ggml.pre"),
    )
