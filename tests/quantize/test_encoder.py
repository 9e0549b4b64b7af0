"""What the encoder graph promises whatever its weights. That its numbers are right is shown in test_truth.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantize.lower import LOWERINGS
from quantize.sources.checkpoint import Checkpoint, SourceError
from tests.quantize.graphs import open_encoder
from tests.quantize.tiny import HIDDEN, tiny_bert

TEXTS = [[5, 9, 200, 17, 3], [77], list(range(100, 140))]


@pytest.mark.parametrize("lane", sorted(LOWERINGS))
def test_a_batch_gives_each_text_the_vector_it_gets_alone(lane: str, tmp_path: Path) -> None:
    encoder = open_encoder(tmp_path, tiny_bert(), lane)
    together = encoder.embed(TEXTS)
    alone = np.concatenate([encoder.embed([text]) for text in TEXTS])
    assert together.shape == (3, HIDDEN)
    assert (together * alone).sum(axis=1).min() > 0.99999
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def test_order_and_content_matter(tmp_path: Path) -> None:
    encoder = open_encoder(tmp_path, tiny_bert(), "fp32")
    first, turned, other = encoder.embed([[5, 9, 200], [200, 9, 5], [5, 9, 201]])
    assert first @ turned < 0.9999
    assert first @ other < 0.9999


@pytest.mark.parametrize(("lane", "least"), [("q8", 0.999), ("int8", 0.999), ("q4", 0.98)])
def test_lanes_stay_near_full_precision(lane: str, least: float, tmp_path: Path) -> None:
    checkpoint = tiny_bert()
    full = open_encoder(tmp_path / "full", checkpoint, "fp32").embed(TEXTS)
    lowered = open_encoder(tmp_path / "lowered", checkpoint, lane).embed(TEXTS)
    assert (full * lowered).sum(axis=1).min() > least


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "silu"),
        ("model_type", "albert"),
        ("position_embedding_type", "relative_key"),
        ("is_decoder", True),
    ],
)
def test_what_the_graph_would_get_wrong_is_refused_by_name(field: str, value: object, tmp_path: Path) -> None:
    checkpoint = tiny_bert()
    with pytest.raises(SourceError, match=field):
        open_encoder(tmp_path, replace(checkpoint, config={**checkpoint.config, field: value}), "fp32")


def test_every_tensor_is_used_but_for_the_heads_of_its_training(tmp_path: Path) -> None:
    def beside(*names: str) -> Checkpoint:
        more = {name: np.ones(HIDDEN, np.float32) for name in names}
        return replace(tiny_bert(), tensors={**tiny_bert().tensors, **more})

    open_encoder(tmp_path, beside("pooler.dense.weight", "pooler.dense.bias", "cls.predictions.bias"), "fp32")
    with pytest.raises(SourceError, match=r"encoder\.layer\.0\.adapter\.weight.*1 more"):
        open_encoder(tmp_path, beside("encoder.layer.0.adapter.weight", "projection.weight"), "fp32")
