import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.sources.checkpoint import SourceError
from quantize.sources.folder import read_folder
from tests.quantize.tiny import save_folder, tiny_bert, write_safetensors

TYPES = "sentence_transformers.models."


def write(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    """A folder of sentence-transformers' with one module after the encoder."""
    save_folder(tiny_bert(), folder)
    modules = [{"type": f"{TYPES}Transformer", "path": ""}, {"type": f"{TYPES}{kind}", "path": "1_Module"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Module").mkdir()
    (folder / "1_Module" / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_how_tokens_become_a_vector_is_read(settings: dict[str, Any], pooling: str, tmp_path: Path) -> None:
    assert read_folder(write(tmp_path / "m", "Pooling", settings)).config["sentence_pooling"] == pooling


def test_a_matrix_on_top_is_read(tmp_path: Path) -> None:
    settings = {"activation_function": "torch.nn.modules.activation.Tanh"}
    folder = write(tmp_path / "m", "Dense", settings)
    weight = np.ones((2, 64), np.float32)
    write_safetensors(folder / "1_Module" / "model.safetensors", {"linear.weight": ("F32", (2, 64), weight.tobytes())})
    checkpoint = read_folder(folder)
    assert checkpoint.config["sentence_dense_activation"] == "tanh"
    assert checkpoint.vector("sentence_dense.linear.weight").shape == (2, 64)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("Pooling", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("Pooling", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls, mean"),
        ("Dense", {"activation_function": "torch.nn.ReLU"}, "ReLU"),
        ("Dense", {}, "model.safetensors"),
        ("LSTM", {}, "LSTM"),
    ],
)
def test_what_is_not_known_is_refused_by_name(kind: str, settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=named):
        read_folder(write(tmp_path / "m", kind, settings))
