from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from gguf.quants import dequantize, quantize

from quantize.sources.checkpoint import Q4, Floats, SourceError, dense
from quantize.sources.gguf import read_gguf
from tests.quantize.tiny import (
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    KV_HEADS,
    LAYERS,
    POSITIONS,
    TEMPLATE,
    byte_symbols,
    tiny_llama,
)

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleave(matrix: Floats, heads: int) -> Floats:
    """As llama.cpp's converter stores query and key rows: the two halves of a head alternate."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, kind: GGMLQuantizationType, **changes: Any) -> None:
    """The tiny checkpoint as a GGUF file; `changes` replace or (None) leave out metadata."""
    writer = GGUFWriter(path, changes.pop("architecture", "llama"))
    fields: dict[str, Any] = {
        "block_count": LAYERS,
        "context_length": POSITIONS,
        "embedding_length": HIDDEN,
        "feed_forward_length": INNER,
        "head_count": HEADS,
        "head_count_kv": KV_HEADS,
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
        **changes,
    }
    for name, value in fields.items():
        if value is not None:
            getattr(writer, f"add_{name}")(value)
    for name, tensor in tiny_llama().tensors.items():
        values = dense(tensor)
        match name.removesuffix(".weight").split(".", 3):
            case ["model", "layers", layer, part]:
                own = f"blk.{layer}.{NAMES[part]}.weight"
            case ["model", "norm"]:
                own = "output_norm.weight"
            case _:
                own = "token_embd.weight"
        if own.endswith("attn_q.weight"):
            values = interleave(values, HEADS)
        elif own.endswith("attn_k.weight"):
            values = interleave(values, KV_HEADS)
        if values.ndim == 1:
            writer.add_tensor(own, values)
        else:
            writer.add_tensor(own, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_full_precision_comes_back_in_hugging_face_s_order(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType.F32)
    read, original = read_gguf(tmp_path / "m.gguf"), tiny_llama()
    assert read.tensors.keys() == original.tensors.keys()
    for name, tensor in original.tensors.items():
        assert np.array_equal(dense(read.tensors[name]), dense(tensor)), name
    assert read.config["rms_norm_eps"] == pytest.approx(1e-5)
    assert {**read.config, "rms_norm_eps": 1e-5} == original.config
    assert read.chat_template == TEMPLATE


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


def test_8_bit_blocks_are_spread_out(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", GGMLQuantizationType.Q8_0)
    read = read_gguf(tmp_path / "m.gguf").tensors["model.layers.0.self_attn.q_proj.weight"]
    original = dense(tiny_llama().tensors["model.layers.0.self_attn.q_proj.weight"])
    assert np.abs(dense(read) - original).max() < 0.01


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "gemma3"}, "general.architecture"),
        ({"tokenizer_model": "llama"}, "tokenizer.ggml.model"),
        ({"tokenizer_pre": "deepseek-llm"}, "tokenizer.ggml.pre"),
        ({"head_count": None}, "llama.attention.head_count"),
        ({"rope_scaling_type": RopeScalingType.YARN}, "llama.rope.scaling.type"),
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
