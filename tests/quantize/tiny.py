"""Random checkpoints of a few thousand weights, in the neutral form and as the files that sources read."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quantize.sources.bpe import bpe_tokenizer
from quantize.sources.checkpoint import Checkpoint, Floats, Tensor, dense

VOCAB = 258
HEADS, KV_HEADS, HEAD_DIM, HIDDEN, INNER, LAYERS, POSITIONS = 4, 2, 32, 64, 96, 2, 1024
EXPERTS, WINDOW = 6, 8
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<end>{% endfor %}"


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes in a byte-level vocabulary, by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def tiny_tokenizer() -> str:
    """Every byte is a token (its own id), then <end> and <pad>."""
    return bpe_tokenizer([*byte_symbols(), "<end>", "<pad>"], [1] * 256 + [3, 3], [], "smollm")


def llama_config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCAB,
        "bos_token_id": None,
        "eos_token_id": 256,
        "tie_word_embeddings": True,
        **changes,
    }


def tiny_llama(seed: int = 0, **changes: Any) -> Checkpoint:
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Floats:
        return np.asarray(draw.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    def scale() -> Floats:
        return draw.uniform(0.5, 1.5, HIDDEN).astype(np.float32)

    config = llama_config(**changes)
    tensors: dict[str, Tensor] = {
        "model.embed_tokens.weight": matrix(VOCAB, HIDDEN),
        "model.norm.weight": scale(),
    }
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(VOCAB, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": scale(),
            f"{prefix}.post_attention_layernorm.weight": scale(),
            f"{prefix}.self_attn.q_proj.weight": matrix(HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD_DIM),
            f"{prefix}.mlp.gate_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": matrix(INNER, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": matrix(HIDDEN, INNER),
        }
    return Checkpoint(config, tensors, tiny_tokenizer(), TEMPLATE)


def tiny_qwen2(**changes: Any) -> Checkpoint:
    """With biases."""
    plain = tiny_llama(model_type="qwen2", **changes)
    sizes = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM}
    return _with_vectors(plain, {f"self_attn.{part}_proj.bias": size for part, size in sizes.items()}, around=0)


def tiny_qwen3(**changes: Any) -> Checkpoint:
    """With norms of heads."""
    plain = tiny_llama(**{"model_type": "qwen3", **changes})
    return _with_vectors(plain, {f"self_attn.{part}_norm.weight": HEAD_DIM for part in "qk"}, around=1)


def tiny_qwen3_moe(**changes: Any) -> Checkpoint:
    """With EXPERTS experts in each layer but the first, two for each token."""
    mixture = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "norm_topk_prob": True, "mlp_only_layers": [0]}
    plain = tiny_qwen3(model_type="qwen3_moe", **{**mixture, **changes})
    draw = np.random.default_rng(5)
    tensors = dict(plain.tensors)
    for layer in range(1, LAYERS):
        prefix = f"model.layers.{layer}.mlp"
        tensors[f"{prefix}.gate.weight"] = draw.standard_normal((EXPERTS, HIDDEN)).astype(np.float32)
        for part in ("gate", "up", "down"):
            rows, columns = tensors.pop(f"{prefix}.{part}_proj.weight").shape
            for expert in range(EXPERTS):
                values = draw.standard_normal((rows, columns)) / np.sqrt(columns)
                tensors[f"{prefix}.experts.{expert}.{part}_proj.weight"] = values.astype(np.float32)
    return replace(plain, tensors=tensors)


def tiny_gemma3(**changes: Any) -> Checkpoint:
    """With a window of WINDOW tokens in its first layer, norms before and after, and the widths of heads in norms."""
    config = {
        "model_type": "gemma3_text",
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": ["sliding_attention"] + ["full_attention"] * (LAYERS - 1),
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": HEAD_DIM,
    }
    plain = tiny_qwen3(**{**config, **changes})
    names = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return _with_vectors(plain, {f"{name}.weight": HIDDEN for name in names}, around=0)


def _with_vectors(checkpoint: Checkpoint, sizes: dict[str, int], around: float) -> Checkpoint:
    """With random vectors in every layer, of the given sizes by name."""
    draw = np.random.default_rng(7)
    more = {
        f"model.layers.{layer}.{name}": (around + draw.standard_normal(size) / 5).astype(np.float32)
        for layer in range(LAYERS)
        for name, size in sizes.items()
    }
    return replace(checkpoint, tensors={**checkpoint.tensors, **more})


TINY_DECODERS: dict[str, Callable[..., Checkpoint]] = {
    "llama": tiny_llama,
    "qwen2": tiny_qwen2,
    "qwen3": tiny_qwen3,
    "qwen3_moe": tiny_qwen3_moe,
    "gemma3_text": tiny_gemma3,
}


def tiny_bert(seed: int = 0) -> Checkpoint:
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Floats:
        return np.asarray(draw.standard_normal((rows, columns)) / np.sqrt(columns), np.float32)

    def vector(count: int) -> Floats:
        return np.asarray(draw.standard_normal(count) / 5, np.float32)

    tensors: dict[str, Tensor] = {
        "embeddings.word_embeddings.weight": matrix(VOCAB, HIDDEN),
        "embeddings.position_embeddings.weight": matrix(POSITIONS, HIDDEN),
        "embeddings.token_type_embeddings.weight": matrix(2, HIDDEN),
        "embeddings.LayerNorm.weight": 1 + vector(HIDDEN),
        "embeddings.LayerNorm.bias": vector(HIDDEN),
    }
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ):
            tensors[f"{prefix}.{name}.weight"] = matrix(rows, columns)
            tensors[f"{prefix}.{name}.bias"] = vector(rows)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{prefix}.{name}.weight"] = 1 + vector(HIDDEN)
            tensors[f"{prefix}.{name}.bias"] = vector(HIDDEN)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }
    return Checkpoint(config, tensors, tiny_tokenizer())


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Names to (type, shape, bytes), written by hand so that broken files can be written too."""
    header, body = {}, b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def save_folder(checkpoint: Checkpoint, folder: Path) -> Path:
    """The checkpoint as Hugging Face would save it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer)
    if checkpoint.chat_template:
        (folder / "chat_template.jinja").write_text(checkpoint.chat_template)
    arrays = {name: dense(tensor) for name, tensor in checkpoint.tensors.items()}
    write_safetensors(
        folder / "model.safetensors", {name: ("F32", array.shape, array.tobytes()) for name, array in arrays.items()}
    )
    return folder


DECODER_RECIPE = """
name = "tiny-decoder"
version = "1"
family = "decoder"
tasks = ["chat", "completion"]
languages = ["en", "hi"]
licence = "Apache-2.0"
copyright = "Nobody"
context_tokens = 512
not_good_at = ["everything: its weights are random"]
self_test = ["The shop opens"]
default_lane = "q8"
source = { format = "folder", path = "weights" }
chat = { stop_tokens = ["<end>"] }

[lanes.q8]
agreement_min = 0.5
perplexity_rise_max = 1.0

[lanes.int8]
agreement_min = 0.5
perplexity_rise_max = 1.0

[lanes.q4]
shipped = false
"""

ENCODER_RECIPE = """
name = "tiny-encoder"
version = "1"
family = "encoder"
tasks = ["embedding"]
languages = ["ta"]
licence = "MIT"
copyright = "Nobody"
context_tokens = 512
not_good_at = ["everything: its weights are random"]
self_test = ["query: கடை"]
default_lane = "int8"
source = { format = "folder", path = "weights" }
embedding = { dim = 64, query_prefix = "query: ", passage_prefix = "passage: " }
lanes.int8 = { cosine_min = 0.95 }
"""


def write_recipe(text: str, checkpoint: Checkpoint, folder: Path) -> Path:
    """A recipe beside the weights it names."""
    save_folder(checkpoint, folder / "weights")
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path
