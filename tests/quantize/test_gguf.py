from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import dequantize, quantize

from quantize.graphs.families import read_design
from quantize.sources.checkpoint import Q4, Checkpoint, Floats, SourceError, dense
from quantize.sources.gguf import read_gguf
from tests.quantize.tiny import (
    EXPERTS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    KV_HEADS,
    LAYERS,
    POSITIONS,
    TEMPLATE,
    TINY_DECODERS,
    VOCAB,
    WINDOW,
    byte_symbols,
    tiny_llama,
)

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
}
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
}
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
MORE_FIELDS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"expert_count": EXPERTS, "expert_used_count": 2, "expert_feed_forward_length": INNER},
    "gemma3_text": {"sliding_window": WINDOW, "sliding_window_pattern": 2},
}


def tiny(family: str) -> Checkpoint:
    """A GGUF file cannot say of a mixture that some layers have none."""
    return TINY_DECODERS[family](**({"mlp_only_layers": []} if family == "qwen3_moe" else {}))


def interleave(matrix: Floats, heads: int) -> Floats:
    """As llama.cpp's converter stores query and key rows: the two halves of a head alternate."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(family: str) -> dict[str, Floats]:
    """By GGUF's names and in its order, a layer's experts together."""
    tensors: dict[str, Floats] = {}
    experts: dict[str, list[Floats]] = {}
    for name, tensor in tiny(family).tensors.items():
        values = dense(tensor)
        match name.split("."):
            case ["model", "layers", layer, "mlp", "experts", _, part, kind]:
                experts.setdefault(f"blk.{layer}.{NAMES[f'mlp.experts.{part}']}.{kind}", []).append(values)
                continue
            case ["model", "layers", layer, *part, kind]:
                inner = {**NAMES, **(GEMMA_NAMES if family == "gemma3_text" else {})}[".".join(part)]
                own = f"blk.{layer}.{inner}.{kind}"
            case ["model", "norm", _]:
                own = "output_norm.weight"
            case _:
                own = "token_embd.weight"
        if family == "llama" and own.endswith(("attn_q.weight", "attn_k.weight")):
            values = interleave(values, HEADS if "attn_q" in own else KV_HEADS)
        if family == "gemma3_text" and own.endswith("norm.weight"):
            values = values + np.float32(1)
        tensors[own] = values
    return tensors | {name: np.stack(parts) for name, parts in experts.items()}


def write_gguf(path: Path, kind: GGMLQuantizationType, family: str = "llama", **changes: Any) -> None:
    """The family's tiny checkpoint as a GGUF file; `changes` replace or (None) leave out metadata."""
    writer = GGUFWriter(path, changes.pop("architecture", ARCHITECTURES[family]))
    extra: dict[str, Floats] = changes.pop("tensors", {})
    fields: dict[str, Any] = {
        "block_count": LAYERS,
        "context_length": POSITIONS,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "head_count": HEADS,
        "head_count_kv": KV_HEADS,
        "key_length": HEAD_DIM,
        "value_length": HEAD_DIM,
        "layer_norm_rms_eps": 1e-5,
        "rope_dimension_count": HEAD_DIM,
        "rope_freq_base": 10000.0,
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "smollm",
        "token_list": [*byte_symbols(), "<end>", "<pad>"],
        "token_types": [1] * 256 + [3, 3],
        "token_merges": ["a b"],
        "eos_token_id": 256,
        "chat_template": TEMPLATE,
        **MORE_FIELDS.get(family, {}),
        **changes,
    }
    for name, value in fields.items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, values in (gguf_tensors(family) | extra).items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_full_precision_comes_back_in_hugging_face_s_names_and_order(family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType.F32, family)
    read, original = read_gguf(tmp_path / "m.gguf"), tiny(family)
    assert read.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert np.allclose(dense(read.tensors[name]), dense(tensor), rtol=0, atol=3e-7), name
    assert read.config["rms_norm_eps"] == pytest.approx(1e-5)
    assert read_design(replace(read, config={**read.config, "rms_norm_eps": 1e-5})) == read_design(original)
    assert read.config["vocab_size"] == VOCAB
    assert read.chat_template == TEMPLATE


def test_stretched_rotary_positions_come_back(tmp_path: Path) -> None:
    kind, plain = GGMLQuantizationType.F32, read_design(tiny_llama()).layers[0].turns
    write_gguf(tmp_path / "linear.gguf", kind, rope_scaling_type=RopeScalingType.LINEAR, rope_scaling_factor=4.0)
    assert read_design(read_gguf(tmp_path / "linear.gguf")).layers[0].turns == tuple(turn / 4 for turn in plain)
    divisors = np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)
    write_gguf(tmp_path / "llama3.gguf", kind, tensors={"rope_freqs.weight": divisors})
    read = read_gguf(tmp_path / "llama3.gguf")
    assert np.allclose(read_design(read).layers[0].turns, np.array(plain) / divisors)
    assert read.tensors.keys() == tiny_llama().tensors.keys()


@pytest.mark.parametrize("kind", ["BF16", "F16", "Q5_0", "Q5_1", "Q8_0"])
def test_other_kinds_are_spread_out(kind: str, tmp_path: Path) -> None:
    """The kinds with blocks of 256 need a wider model; `gguf` reads them, and Gemma's file has them."""
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType[kind])
    read = read_gguf(tmp_path / "m.gguf")
    for name, tensor in tiny_llama().tensors.items():
        assert np.abs(dense(read.tensors[name]) - dense(tensor)).max() < 0.05, name


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_4_bit_blocks_come_back_as_blocks_with_their_exact_values(kind: GGMLQuantizationType, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", kind)
    read, original = read_gguf(tmp_path / "m.gguf"), tiny_llama()
    for name, tensor in original.tensors.items():
        own = read.tensors[name]
        assert isinstance(own, Q4) == (tensor.shape[0] > 1 and len(tensor.shape) == 2)
        if isinstance(own, Q4):
            step = own.scale.max()
            assert np.abs(own.dense() - dense(tensor)).max() < step  # Within a step: right rows, right order.
    raw = quantize(dense(original.tensors["model.embed_tokens.weight"]), kind)
    assert np.array_equal(dense(read.tensors["model.embed_tokens.weight"]), dequantize(raw, kind))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "mamba"}, "general.architecture"),
        ({"tokenizer_model": "t5"}, "tokenizer.ggml.model"),
        ({"tokenizer_pre": "deepseek-llm"}, "tokenizer.ggml.pre"),
        ({"head_count": None}, "llama.attention.head_count"),
        ({"rope_scaling_type": RopeScalingType.YARN}, "llama.rope.scaling.type"),
        ({"value_length": 2 * HEAD_DIM}, "llama.attention.value_length"),
        ({"rope_dimension_count": HEAD_DIM // 2}, "llama.rope.dimension_count"),
        ({"family": "gemma3_text", "final_logit_softcapping": 30.0}, "gemma3.final_logit_softcapping"),
        ({"family": "gemma3_text", "sliding_window": None}, "gemma3.attention.sliding_window"),
        ({"tensors": {"blk.0.attn_sinks.weight": np.ones(HEADS, np.float32)}}, "blk.0.attn_sinks"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(changes: dict[str, Any], field: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType.F32, **changes)
    with pytest.raises(SourceError, match=field):
        read_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize("kept", [30, 400, 30_000, -100])
def test_a_file_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType.F32)
    data = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(data[:kept])
    with pytest.raises(SourceError, match=r"m\.gguf"):
        read_gguf(tmp_path / "m.gguf")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model at all, but long enough to look at" * 10)
    with pytest.raises(SourceError, match=r"m\.gguf"):
        read_gguf(tmp_path / "m.gguf")
