"""What the decoder graph promises whatever its weights. That its numbers are right is shown in test_truth.py."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.graphs.llama import rotary_tables
from quantize.lower import LOWERINGS
from quantize.sources.checkpoint import Checkpoint, SourceError
from tests.quantize.graphs import open_decoder
from tests.quantize.tiny import HEAD_DIM, HIDDEN, LAYERS, VOCAB, tiny_llama

PROMPTS = [[5, 9, 200, 17, 3], [77], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
LANES = sorted(LOWERINGS)


@pytest.mark.parametrize("lane", LANES)
def test_a_batch_gives_each_prompt_the_answer_it_gets_alone(lane: str, tmp_path: Path) -> None:
    checkpoint = tiny_llama()
    together = open_decoder(tmp_path / "a", checkpoint, lane, rows=3).greedy(PROMPTS, 12)
    alone = open_decoder(tmp_path / "b", checkpoint, lane, rows=1)
    assert together == [alone.greedy([prompt], 12)[0] for prompt in PROMPTS]
    assert len({tuple(answer) for answer in together}) == 3  # The prompts matter.


def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, tiny_llama(), "fp32", rows=2)
    ids = list(range(40))
    whole = decoder.step([ids, []], every=True)
    decoder.reset()
    parts = [decoder.step([ids[:7], [9]], every=True)[:7], decoder.step([ids[7:30], []], every=True)]
    parts.append(decoder.step([ids[30:], [1, 2]], every=True)[:10])
    assert np.allclose(np.concatenate(parts), whole, atol=1e-5)


def test_an_idle_row_keeps_its_place(tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, tiny_llama(), "q8", rows=2)
    decoder.step([[4, 5, 6], [7, 8]])
    expected = decoder.step([[9], [10]])[1]
    decoder.reset()
    decoder.step([[4, 5, 6], [7, 8]])
    decoder.step([[9], []])
    assert np.allclose(decoder.step([[], [10]])[0], expected, atol=1e-5)


def test_an_untied_head_is_its_own_matrix(tmp_path: Path) -> None:
    tied, untied = tiny_llama(), tiny_llama(tie_word_embeddings=False)
    first = open_decoder(tmp_path / "a", tied, "fp32", rows=1).step([[5, 6]])
    second = open_decoder(tmp_path / "b", untied, "fp32", rows=1).step([[5, 6]])
    assert first.shape == second.shape == (1, VOCAB)
    assert not np.allclose(first, second, atol=0.1)


def test_rotary_tables_start_unturned_and_turn_slower_in_later_places() -> None:
    cosines, sines = rotary_tables(tiny_llama())
    assert cosines.shape == sines.shape == (1024, 8)
    assert (cosines[0] == 1).all()
    assert (sines[0] == 0).all()
    assert sines[1, 0] == pytest.approx(np.sin(1.0))
    assert sines[1, 4] == pytest.approx(np.sin(10000 ** (-4 / 8)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "qwen3"),
        ("model_type", None),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_theta": 10000.0, "rope_type": "yarn"}),
    ],
)
def test_what_the_graph_would_get_wrong_is_refused_by_name(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=field):
        open_decoder(tmp_path, tiny_llama(**{field: value}), "fp32", rows=1)


def with_tensor(checkpoint: Checkpoint, name: str, *shape: int) -> Checkpoint:
    return replace(checkpoint, tensors={**checkpoint.tensors, name: np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.layers.0.self_attn.q_norm.weight", HEAD_DIM),  # Qwen3
        ("model.layers.1.self_attn.q_proj.bias", HIDDEN),  # Qwen2
        (f"model.layers.{LAYERS}.input_layernorm.weight", HIDDEN),  # more layers than the config says
    ],
)
def test_a_tensor_that_the_graph_would_leave_out_is_refused_by_name(name: str, size: int, tmp_path: Path) -> None:
    checkpoint = with_tensor(tiny_llama(), name, size)
    for _ in range(2):  # What was read for one graph does not count for the next.
        checkpoint.tensor(name)
        with pytest.raises(SourceError, match=re.escape(name)):
            open_decoder(tmp_path, checkpoint, "fp32", rows=1)


def test_what_a_decoder_needs_not_may_lie_beside_it(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    open_decoder(tmp_path, with_tensor(tiny_llama(), name, HEAD_DIM // 2), "fp32", rows=1)
    copied = with_tensor(tiny_llama(), "lm_head.weight", VOCAB, HIDDEN)
    open_decoder(tmp_path, copied, "fp32", rows=1)
    with pytest.raises(SourceError, match="lm_head"):
        open_decoder(tmp_path, replace(tiny_llama(tie_word_embeddings=False), tensors=tiny_llama().tensors), "fp32", 1)
