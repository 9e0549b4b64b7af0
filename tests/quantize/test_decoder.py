"""What the decoder graph promises whatever its weights. That its numbers are right is shown in test_truth.py."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantize.lower import LOWERINGS
from quantize.sources.checkpoint import Checkpoint, SourceError, Tensor
from tests.quantize.graphs import open_decoder
from tests.quantize.tiny import (
    EXPERTS,
    HEAD_DIM,
    HIDDEN,
    LAYERS,
    TINY_DECODERS,
    VOCAB,
    WINDOW,
    tiny_gemma3,
    tiny_llama,
    tiny_qwen3_moe,
)

PROMPTS = [[5, 9, 200, 17, 3], [77], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
FAMILIES = sorted(TINY_DECODERS)
DENSE = [family for family in FAMILIES if family != "qwen3_moe"]
LANES = [(family, lane) for family in FAMILIES for lane in sorted(LOWERINGS)]
KERNEL_LANES = [(family, lane) for family in DENSE for lane in ("k4", "k8")]


@pytest.mark.parametrize(("family", "lane"), [*LANES, *KERNEL_LANES])
def test_a_batch_gives_each_prompt_the_answer_it_gets_alone(family: str, lane: str, tmp_path: Path) -> None:
    checkpoint = TINY_DECODERS[family]()
    together = open_decoder(tmp_path / "a", checkpoint, lane, rows=3).greedy(PROMPTS, 12)
    alone = open_decoder(tmp_path / "b", checkpoint, lane, rows=1)
    assert together == [alone.greedy([prompt], 12)[0] for prompt in PROMPTS]
    assert len({tuple(answer) for answer in together}) == 3  # The prompts matter.


@pytest.mark.parametrize(("family", "lane"), KERNEL_LANES)
def test_on_our_own_operators_the_logits_are_near_full_precision(family: str, lane: str, tmp_path: Path) -> None:
    checkpoint = TINY_DECODERS[family]()
    ids = [token % VOCAB for token in range(3, 3 * 40, 3)]  # beyond the window
    full = open_decoder(tmp_path / "full", checkpoint, "fp32", rows=1).step([ids], every=True)
    found = open_decoder(tmp_path / "own", checkpoint, lane, rows=1).step([ids], every=True)
    error = np.linalg.norm(found - full, axis=1) / np.linalg.norm(full, axis=1)
    assert error.mean() < {"k8": 0.06, "k4": 0.35}[lane]  # Random weights are rounded to 4 bits, real ones kept.


@pytest.mark.parametrize(("family", "lane"), KERNEL_LANES)
def test_on_our_own_operators_chunks_and_neighbours_change_no_bit(family: str, lane: str, tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, TINY_DECODERS[family](), lane, rows=2)
    ids = list(range(40))
    whole = decoder.step([ids, []], every=True)
    decoder.reset()
    parts = [decoder.step([ids[:7], [9]], every=True)[:7], decoder.step([ids[7:30], []], every=True)]
    parts.append(decoder.step([ids[30:], [1, 2]], every=True)[:10])
    assert np.array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(("changes", "says"), [({"head_dim": 16}, "heads of 16"), ({"head_dim": 288}, "heads of 288")])
def test_heads_that_our_operators_cannot_attend_are_refused(changes: dict[str, int], says: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=says):
        open_decoder(tmp_path, tiny_llama(**changes), "k8", rows=1)


def test_experts_have_no_operator_of_our_own(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="experts"):
        open_decoder(tmp_path, tiny_qwen3_moe(), "k8", rows=1)


@pytest.mark.parametrize("lane", ["q8", "int8"])
def test_a_token_s_experts_give_exactly_what_they_give_it_alone(lane: str, tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, tiny_qwen3_moe(), lane, rows=3)
    together = decoder.step([[5], [9], [200]])
    for row, token in enumerate([5, 9, 200]):
        decoder.reset()
        alone = decoder.step([[token] if row == at else [] for at in range(3)])
        assert np.array_equal(alone[0], together[row])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(family: str, tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, TINY_DECODERS[family](), "fp32", rows=2)
    ids = list(range(40))
    whole = decoder.step([ids, []], every=True)
    decoder.reset()
    parts = [decoder.step([ids[:7], [9]], every=True)[:7], decoder.step([ids[7:30], []], every=True)]
    parts.append(decoder.step([ids[30:], [1, 2]], every=True)[:10])
    assert np.allclose(np.concatenate(parts), whole, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_token_s_logits_are_those_it_has_among_all(family: str, tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, TINY_DECODERS[family](), "fp32", rows=2)
    every = decoder.step([[4, 5, 6], [7, 8]], every=True)
    decoder.reset()
    assert np.allclose(decoder.step([[4, 5, 6], [7, 8]]), every[[2, 4]], atol=1e-5)


@pytest.mark.parametrize(("family", "lane"), [*LANES, *KERNEL_LANES])
def test_a_step_may_want_no_logits_at_all(family: str, lane: str, tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, TINY_DECODERS[family](), lane, rows=1)
    whole = decoder.step([[4, 5, 6, 7]])
    decoder.reset()
    assert decoder.step([[4, 5, 6]], wanted=[]).shape == (0, VOCAB)
    assert np.allclose(decoder.step([[7]]), whole, atol=1e-3 * np.abs(whole).max())


def test_an_idle_row_keeps_its_place(tmp_path: Path) -> None:
    decoder = open_decoder(tmp_path, tiny_llama(), "q8", rows=2)
    decoder.step([[4, 5, 6], [7, 8]])
    expected = decoder.step([[9], [10]])[1]
    decoder.reset()
    decoder.step([[4, 5, 6], [7, 8]])
    decoder.step([[9], []])
    assert np.allclose(decoder.step([[], [10]])[0], expected, atol=1e-5)


def test_a_layer_with_a_window_forgets_what_lies_before_it(tmp_path: Path) -> None:
    """Through one such layer after another a token can reach further, so all but the first are left out."""
    short = replace(
        tiny_gemma3(num_hidden_layers=1, layer_types=["sliding_attention"]), tensors=first_layer(tiny_gemma3())
    )
    decoder = open_decoder(tmp_path, short, "fp32", rows=2)
    inside, outside = [9, *range(20, 20 + WINDOW - 1)], [9, *range(20, 20 + WINDOW)]
    told = decoder.step([inside, [7, *inside[1:]]])
    decoder.reset()
    forgotten = decoder.step([outside, [7, *outside[1:]]])
    assert np.abs(told[0] - told[1]).max() > 1e-3
    assert np.array_equal(forgotten[0], forgotten[1])


def first_layer(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in checkpoint.tensors.items() if "layers.1" not in name}


def test_an_untied_head_is_its_own_matrix(tmp_path: Path) -> None:
    tied, untied = tiny_llama(), tiny_llama(tie_word_embeddings=False)
    first = open_decoder(tmp_path / "a", tied, "fp32", rows=1).step([[5, 6]])
    second = open_decoder(tmp_path / "b", untied, "fp32", rows=1).step([[5, 6]])
    assert first.shape == second.shape == (1, VOCAB)
    assert not np.allclose(first, second, atol=0.1)


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "model_type", "mamba"),
        ("llama", "model_type", None),
        ("llama", "hidden_act", "gelu"),
        ("llama", "attention_bias", True),
        ("llama", "sliding_window", 512),
        ("llama", "layer_types", ["full_attention", "sliding_attention"]),
        ("llama", "layer_types", ["full_attention"]),
        ("llama", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("qwen2", "attention_bias", False),
        ("qwen2", "use_sliding_window", True),
        ("qwen3", "attention_bias", True),
        ("qwen3_moe", "num_experts_per_tok", EXPERTS + 1),
        ("gemma3_text", "final_logit_softcapping", 30.0),
        ("gemma3_text", "attn_logit_softcapping", 50.0),
        ("gemma3_text", "hidden_activation", "gelu"),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("gemma3_text", "layer_types", ["chunked_attention"] * LAYERS),
    ],
)
def test_what_the_graph_would_get_wrong_is_refused_by_name(family: str, field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="rope" if field == "rope_scaling" else field):
        open_decoder(tmp_path, TINY_DECODERS[family](**{field: value}), "fp32", rows=1)


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
