from pathlib import Path

import numpy as np
import pytest

from quantize.sources.adapter import merge_adapter
from quantize.sources.checkpoint import SourceError, dense
from tests.quantize.tiny import HIDDEN, INNER, tiny_bert, write_safetensors

NAME = "encoder.layer.1.intermediate.dense.weight"


def write_adapter(
    path: Path, shapes: dict[str, tuple[int, int]]
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float16]]]:
    draw = np.random.default_rng(5)
    parts = {name: draw.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    write_safetensors(path, {name: ("F16", part.shape, part.tobytes()) for name, part in parts.items()})
    return parts


def test_the_product_is_added_and_nothing_else_changes(tmp_path: Path) -> None:
    base = tiny_bert()
    parts = write_adapter(tmp_path / "a.safetensors", {f"{NAME}.a": (4, HIDDEN), f"{NAME}.b": (INNER, 4)})
    merged = merge_adapter(base, tmp_path / "a.safetensors")
    change = parts[f"{NAME}.b"].astype(np.float32) @ parts[f"{NAME}.a"].astype(np.float32)
    assert np.allclose(dense(merged.tensors[NAME]), dense(base.tensors[NAME]) + change, atol=1e-5)
    assert all(merged.tensors[name] is tensor for name, tensor in base.tensors.items() if name != NAME)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({f"{NAME}.a": (4, HIDDEN)}, "other half"),
        ({f"{NAME}.a": (4, HIDDEN), f"{NAME}.b": (INNER, 3)}, "do not fit"),
        ({f"{NAME}.a": (4, 8), f"{NAME}.b": (INNER, 4)}, "the weights are"),
        ({f"{NAME}.a": (4, HIDDEN), f"{NAME}.b": (INNER, 4), f"{NAME}.c": (1, 1)}, "neither"),
        ({"encoder.layer.9.x.weight.a": (4, 8), "encoder.layer.9.x.weight.b": (8, 4)}, "no tensor"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    shapes: dict[str, tuple[int, int]], message: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "a.safetensors", shapes)
    with pytest.raises(SourceError, match=message):
        merge_adapter(tiny_bert(), tmp_path / "a.safetensors")
