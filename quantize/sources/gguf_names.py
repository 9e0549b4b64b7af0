"""What GGUF calls things: metadata and tensors of each architecture, in Hugging Face's words."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quantize.sources.checkpoint import SourceError

Get = Callable[..., Any]
"""Metadata by key; a second argument is what to take if the file has no such key, else it is refused."""

ROPE_FREQUENCIES = "rope_freqs.weight"  # Llama 3's stretched rotary positions, finished; part of the config here

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
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
# Gemma normalises before and after, so what is the second norm elsewhere is its third.
_GEMMA = {
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma3": "gemma3_text",
}
_GEMMA_27B_LAYERS = 62  # The file does not say how scores are scaled; only this size differs from the others.


def rename_tensor(architecture: str, name: str) -> str:
    """With "{}" where the number of an expert goes, if the tensor holds all experts of a layer."""
    inner = {**_INNER, **(_GEMMA if architecture == "gemma3" else {})}
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, kind] if part in inner and re.fullmatch("[0-9]+", layer):
            return f"model.layers.{layer}.{inner[part]}.{kind}"
    raise SourceError(f"the GGUF file holds a tensor of no known place: {name!r}")


def read_config(get: Get, divisors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """A Hugging Face config, but for what the tensors say. `divisors`: ROPE_FREQUENCIES, if the file has it."""
    architecture = get("general.architecture")
    if architecture not in _MODEL_TYPES:
        known = ", ".join(_MODEL_TYPES)
        raise SourceError(f"general.architecture is {architecture!r}; only {known} can be read")

    def own(key: str, *default: Any) -> Any:
        return get(f"{architecture}.{key}", *default)

    heads, hidden = own("attention.head_count"), own("embedding_length")
    head_dim = own("attention.key_length", hidden // heads)
    if own("attention.value_length", head_dim) != head_dim:
        raise SourceError(f"{architecture}.attention.value_length: values as long as keys are supported only")
    if own("rope.dimension_count", head_dim) != head_dim:
        raise SourceError(f"{architecture}.rope.dimension_count: only heads that turn as a whole are supported")
    config = {
        "model_type": _MODEL_TYPES[architecture],
        "hidden_size": hidden,
        "intermediate_size": own("feed_forward_length", None),
        "num_hidden_layers": own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": own("context_length"),
        "rms_norm_eps": float(np.float32(own("attention.layer_norm_rms_epsilon"))),
        "vocab_size": len(get("tokenizer.ggml.tokens")),
        "bos_token_id": get("tokenizer.ggml.bos_token_id", None),
        "eos_token_id": get("tokenizer.ggml.eos_token_id"),
    }
    rope = {"rope_theta": own("rope.freq_base", 10000.0), **_scaling(own, architecture, divisors)}
    return config | (_gemma(own, config, rope) if architecture == "gemma3" else _others(own, architecture, rope))


def _others(own: Get, architecture: str, rope: Mapping[str, Any]) -> dict[str, Any]:
    config = {"hidden_act": "silu", "rope_parameters": rope}
    if architecture != "qwen3moe":
        return config
    return config | {
        "num_experts": own("expert_count"),
        "num_experts_per_tok": own("expert_used_count"),
        "moe_intermediate_size": own("expert_feed_forward_length"),
        "norm_topk_prob": True,  # Of this architecture always; the file does not say.
    }


def _gemma(own: Get, config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if own(cap, None):
            raise SourceError(f"gemma3.{cap}: is not supported")
    narrow = config["hidden_size"] // config["num_attention_heads"]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": own("attention.sliding_window"),
        "sliding_window_pattern": own("attention.sliding_window_pattern", 6),
        "query_pre_attn_scalar": narrow if config["num_hidden_layers"] == _GEMMA_27B_LAYERS else config["head_dim"],
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": own("rope.freq_base_swa", 10000.0)},
        },
    }


def _scaling(own: Get, architecture: str, divisors: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    kind = own("rope.scaling.type", "none")
    if divisors is not None:
        return {"rope_type": "divided", "divisors": [float(divisor) for divisor in divisors]}
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(own("rope.scaling.factor"))}
    if kind != "none":
        raise SourceError(f"{architecture}.rope.scaling.type is {kind!r}; only 'linear' and none are supported")
    return {"rope_type": "default"}
