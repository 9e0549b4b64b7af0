"""What the encoder graph promises whatever its weights. That its numbers are right is shown in test_truth.py."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantize.lower import LOWERINGS
from quantize.sources.checkpoint import SourceError
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


def test_another_activation_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = tiny_bert()
    with pytest.raises(SourceError, match="hidden_act"):
        open_encoder(tmp_path, replace(checkpoint, config={**checkpoint.config, "hidden_act": "relu"}), "fp32")
