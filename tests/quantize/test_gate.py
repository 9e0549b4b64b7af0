from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantize.gate import BelowThreshold, DecoderScore, EncoderScore, judge, score_decoder, score_encoder
from quantize.progress import ignore_progress
from quantize.recipe import LaneRule
from quantize.sources.checkpoint import dense
from tests.quantize.graphs import geometry_of, open_decoder, write_graph
from tests.quantize.tiny import tiny_bert, tiny_llama

TEXTS = {"en": list(range(200)), "hi": list(range(150, 20, -1))}


def test_a_lane_is_scored_against_full_precision(tmp_path: Path) -> None:
    checkpoint = tiny_llama()
    graphs = {lane: write_graph(tmp_path, checkpoint, lane, "decoder") for lane in ("fp32", "q8")}
    graphs["other"] = write_graph(tmp_path / "other", tiny_llama(seed=1), "fp32", "decoder")
    scores = score_decoder(graphs, geometry_of(checkpoint), TEXTS, ["en", "ta"], threads=1, progress=ignore_progress)
    assert (scores["fp32"].agreement, scores["fp32"].rise) == (1.0, 0.0)
    assert 0.8 < scores["q8"].agreement <= 1.0
    assert abs(scores["q8"].rise) < 0.05
    assert scores["other"].agreement < 0.2
    assert scores["fp32"].perplexity.keys() == {"en", "hi"}


def test_perplexity_is_the_exponential_of_the_mean_surprise(tmp_path: Path) -> None:
    checkpoint, ids = tiny_llama(), list(range(40, 80))
    path = write_graph(tmp_path, checkpoint, "fp32", "decoder")
    scores = score_decoder(
        {"fp32": path}, geometry_of(checkpoint), {"en": ids}, ["en"], threads=1, progress=ignore_progress
    )
    logits = open_decoder(tmp_path, checkpoint, "fp32", rows=1).step([ids], every=True)[:-1].astype(np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp(-np.log(chances[np.arange(39), ids[1:]]).mean())
    assert scores["fp32"].perplexity["en"] == pytest.approx(expected, rel=1e-5)


def test_the_language_that_loses_most_counts(tmp_path: Path) -> None:
    """The other lane knows English bytes as full precision does and has lost the rest of the vocabulary."""
    checkpoint = tiny_llama()
    table = np.array(dense(checkpoint.tensors["model.embed_tokens.weight"]))
    table[128:] = 0
    other = replace(checkpoint, tensors={**checkpoint.tensors, "model.embed_tokens.weight": table})
    graphs = {"fp32": write_graph(tmp_path, checkpoint, "fp32", "decoder")}
    graphs["q8"] = write_graph(tmp_path / "other", other, "fp32", "decoder")
    texts = {"en": [*range(128)] * 8, "hi": [*range(128, 256)]}

    def score(*claimed: str) -> DecoderScore:
        geometry = geometry_of(checkpoint)
        return score_decoder(graphs, geometry, texts, claimed, threads=1, progress=ignore_progress)["q8"]

    english, hindi, both = score("en"), score("hi"), score("en", "hi")
    assert english.agreement > hindi.agreement
    assert both.agreement == hindi.agreement
    assert both.rise == max(english.rise, hindi.rise)


def test_a_lane_that_gives_no_number_in_any_language_does_not_pass(tmp_path: Path) -> None:
    """What the other lane knows of the second language is NaN."""
    checkpoint = tiny_llama()
    table = np.array(dense(checkpoint.tensors["model.embed_tokens.weight"]))
    table[200] = np.nan
    untied = {"tie_word_embeddings": False}
    head = {"lm_head.weight": checkpoint.tensors["model.embed_tokens.weight"]}
    other = replace(
        checkpoint,
        config={**checkpoint.config, **untied},
        tensors={**checkpoint.tensors, **head, "model.embed_tokens.weight": table},
    )
    graphs = {"fp32": write_graph(tmp_path, checkpoint, "fp32", "decoder")}
    graphs["q8"] = write_graph(tmp_path / "other", other, "fp32", "decoder")
    texts = {"en": [*range(128)], "hi": [*range(128, 256)]}
    scores = score_decoder(graphs, geometry_of(checkpoint), texts, ["en", "hi"], threads=1, progress=ignore_progress)
    assert np.isfinite(scores["q8"].perplexity["en"])
    assert np.isnan(scores["q8"].rise)
    with pytest.raises(BelowThreshold, match="perplexity_rise is nan"):
        judge(scores, {"q8": LaneRule(agreement_min=0.0, perplexity_rise_max=10)})
    unshipped = judge(scores, {"q8": LaneRule(shipped=False)})
    assert [verdict.passed for verdict in unshipped] == [True, False]


def test_every_window_begins_as_the_model_s_texts_do(tmp_path: Path) -> None:
    checkpoint, ids = tiny_llama(), list(range(200))
    path = write_graph(tmp_path, checkpoint, "fp32", "decoder")
    scores = score_decoder(
        {"fp32": path}, geometry_of(checkpoint), {"en": ids}, ["en"], start=[257], threads=1, progress=ignore_progress
    )
    decoder, surprise = open_decoder(tmp_path, checkpoint, "fp32", rows=1), []
    for window in ([257, *ids[:127]], [257, *ids[127:]]):
        decoder.reset()
        logits = decoder.step([window], every=True)[:-1].astype(np.float64)
        surprise.append(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), window[1:]])
    assert scores["fp32"].perplexity["en"] == pytest.approx(np.exp(np.concatenate(surprise).mean()), rel=1e-5)


def test_an_encoder_s_lane_is_scored_by_cosine(tmp_path: Path) -> None:
    graphs = {lane: write_graph(tmp_path, tiny_bert(), lane, "encoder") for lane in ("fp32", "int8")}
    graphs["other"] = write_graph(tmp_path / "other", tiny_bert(seed=1), "fp32", "encoder")
    scores = score_encoder(graphs, [[1, 2, 3], [4, 5], [6] * 30] * 7, 1, ignore_progress)
    assert scores["fp32"].cosine_min == pytest.approx(1.0, abs=1e-5)
    assert 0.99 < scores["int8"].cosine_min <= scores["int8"].cosine_mean
    assert scores["other"].cosine_mean < 0.9


def test_a_shipped_lane_below_its_threshold_stops_the_package() -> None:
    rules = {
        "q8": LaneRule(agreement_min=0.9, perplexity_rise_max=0.02),
        "q4": LaneRule(shipped=False, agreement_min=0.99, perplexity_rise_max=0.0),
    }
    good, bad = DecoderScore({}, 0.95, 0.01), DecoderScore({}, 0.85, 0.03)
    verdicts = judge({"q8": good, "q4": bad}, rules)
    assert [(v.lane, v.measure, v.passed) for v in verdicts] == [
        ("q8", "agreement", True),
        ("q8", "perplexity_rise", True),
        ("q4", "agreement", False),
        ("q4", "perplexity_rise", False),
    ]
    with pytest.raises(BelowThreshold, match=r"lane q8: agreement is 0\.8500, the recipe asks for 0\.9") as error:
        judge({"q8": bad, "q4": good}, rules)
    assert len(error.value.verdicts) == 4


def test_a_limit_itself_is_good_enough() -> None:
    assert judge({"int8": EncoderScore(0.99, 0.995)}, {"int8": LaneRule(cosine_min=0.99)})[0].passed
    with pytest.raises(BelowThreshold, match="cosine_min"):
        judge({"int8": EncoderScore(0.9899, 1.0)}, {"int8": LaneRule(cosine_min=0.99)})
