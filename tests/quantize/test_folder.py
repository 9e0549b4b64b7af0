import json
import struct
from pathlib import Path

import numpy as np
import pytest

from quantize.sources.checkpoint import SourceError, dense
from quantize.sources.folder import read_folder
from quantize.sources.safetensors import read_safetensors
from tests.quantize.tiny import TEMPLATE, save_folder, tiny_llama, write_safetensors


def test_a_folder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    original = tiny_llama()
    read = read_folder(save_folder(original, tmp_path / "m"))
    assert read.config == original.config
    assert read.tokenizer == original.tokenizer
    assert read.chat_template == TEMPLATE
    for name, tensor in original.tensors.items():
        assert np.array_equal(dense(read.tensors[name]), dense(tensor))


def test_an_older_folder_keeps_its_template_in_the_tokenizer_s_settings(tmp_path: Path) -> None:
    folder = save_folder(tiny_llama(), tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    assert read_folder(folder).chat_template is None
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "hello"}))
    assert read_folder(folder).chat_template == "hello"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "a", "template": "b"}]}))
    with pytest.raises(SourceError, match="chat_template"):
        read_folder(folder)


def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    values = np.array([1.5, -0.25, 1024.0, 0.0], np.float32)
    brain = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(
        tmp_path / "m.safetensors",
        {
            "half": ("F16", (2, 2), values.astype(np.float16).tobytes()),
            "brain": ("BF16", (4,), brain.tobytes()),
            "full": ("F32", (4, 1), values.tobytes()),
        },
    )
    read = dict(read_safetensors(tmp_path / "m.safetensors"))
    assert {name: array.shape for name, array in read.items()} == {"half": (2, 2), "brain": (4,), "full": (4, 1)}
    for array in read.values():
        assert array.dtype == np.float32
        assert np.array_equal(array.reshape(-1), values)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, "I64"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "does not lie within"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "does not lie within"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "does not lie within"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(entry: dict[str, object], message: str, tmp_path: Path) -> None:
    text = json.dumps({"w": entry}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(SourceError, match=message):
        dict(read_safetensors(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"what", struct.pack("<Q", 99) + b"{}"])
def test_a_broken_header_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(SourceError, match=r"m\.safetensors"):
        dict(read_safetensors(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_what_a_folder_lacks_is_named(name: str, tmp_path: Path) -> None:
    folder = save_folder(tiny_llama(), tmp_path / "m")
    (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(SourceError, match=name.removeprefix("model")):
        read_folder(folder)


def test_an_older_encoder_s_numbered_positions_are_no_weights(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {
            "bert.embeddings.position_ids": ("I64", (1, 2), np.arange(2).tobytes()),
            "bert.embeddings.LayerNorm.bias": ("F32", (1,), bytes(4)),
        },
    )
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert list(read_folder(tmp_path).tensors) == ["bert.embeddings.LayerNorm.bias"]
