"""What each lane loses against full precision, measured on our own texts, and whether that is still good enough."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.manifest import Geometry
from quantize.progress import Progress
from quantize.recipe import LaneRule
from quantize.running import Decoder, Encoder, Floats, Ids

WINDOW_TOKENS = 128  # Texts are read in windows: long enough to need their beginning, cheap enough to run often.


@dataclass(frozen=True)
class DecoderScore:
    """One lane on texts of several languages.

    `perplexity` per language; `agreement`: share of places where the most likely next token is full precision's;
    `rise`: perplexity over full precision's, minus 1. Of both, the worst of the languages that the recipe claims.
    """

    perplexity: Mapping[str, float]
    agreement: float
    rise: float


@dataclass(frozen=True)
class EncoderScore:
    """Cosine between a lane's vectors and full precision's, over all texts."""

    cosine_min: float
    cosine_mean: float


Score = DecoderScore | EncoderScore


@dataclass(frozen=True)
class Verdict:
    """One measure of one lane beside what the recipe asks (None: only measured)."""

    lane: str
    measure: str
    value: float
    limit: float | None
    passed: bool


class BelowThreshold(Exception):
    """A lane is worse than its recipe allows, so there is no package. `verdicts` say which, and by how much."""

    def __init__(self, verdicts: Sequence[Verdict]) -> None:
        self.verdicts = tuple(verdicts)
        failed = "; ".join(
            f"lane {v.lane}: {v.measure} is {v.value:.4f}, the recipe asks for {v.limit}"
            for v in verdicts
            if not v.passed
        )
        super().__init__(f"no package: {failed}")


def score_decoder(
    graphs: Mapping[str, Path],
    geometry: Geometry,
    texts: Mapping[str, Ids],
    claimed: Sequence[str],
    *,
    start: Ids = (),
    window: int = WINDOW_TOKENS,
    threads: int,
    progress: Progress,
) -> dict[str, DecoderScore]:
    """Scores of every lane; `graphs` names "fp32" first. Claimed languages are read whole, others one window each.

    Every window begins with `start`, as every text does that the model is given, and has up to `window` tokens.
    """
    width = window - len(start)
    windows = {
        language: [[*start, *ids[at : at + width]] for at in range(0, len(ids) if language in claimed else 1, width)]
        for language, ids in texts.items()
    }
    scores: dict[str, DecoderScore] = {}
    full: dict[str, _Reading] = {}
    for done, (lane, graph) in enumerate(graphs.items()):
        progress("measuring", done / len(graphs))
        decoder = Decoder(graph, geometry, rows=1, capacity=window, threads=threads)
        readings = {language: _read(decoder, parts) for language, parts in windows.items()}
        full = full or readings
        scores[lane] = _compare(readings, full, [language for language in claimed if language in windows])
    progress("measuring", 1.0)
    return scores


def score_encoder(
    graphs: Mapping[str, Path], texts: Sequence[Ids], threads: int, progress: Progress
) -> dict[str, EncoderScore]:
    """Scores of every lane; `graphs` names "fp32" first."""
    scores: dict[str, EncoderScore] = {}
    full: Floats | None = None
    for done, (lane, graph) in enumerate(graphs.items()):
        progress("measuring", done / len(graphs))
        encoder = Encoder(graph, threads)
        vectors = np.concatenate([encoder.embed(texts[at : at + 16]) for at in range(0, len(texts), 16)])
        full = vectors if full is None else full
        cosines = (vectors * full).sum(axis=1)
        scores[lane] = EncoderScore(float(cosines.min()), float(cosines.mean()))
    progress("measuring", 1.0)
    return scores


def judge(scores: Mapping[str, Score], rules: Mapping[Any, LaneRule]) -> list[Verdict]:
    """Every measure of every lane of the recipe. Raises BelowThreshold if a shipped lane misses one."""
    verdicts: list[Verdict] = []
    for lane, rule in rules.items():
        score = scores[lane]
        if isinstance(score, EncoderScore):
            verdicts.append(_at_least(lane, "cosine_min", score.cosine_min, rule.cosine_min))
        else:
            verdicts.append(_at_least(lane, "agreement", score.agreement, rule.agreement_min))
            verdicts.append(_at_most(lane, "perplexity_rise", score.rise, rule.perplexity_rise_max))
    if any(not verdict.passed and rules[verdict.lane].shipped for verdict in verdicts):
        raise BelowThreshold(verdicts)
    return verdicts


def _at_least(lane: str, measure: str, value: float, limit: float | None) -> Verdict:
    return Verdict(lane, measure, value, limit, math.isfinite(value) and (limit is None or value >= limit))


def _at_most(lane: str, measure: str, value: float, limit: float | None) -> Verdict:
    return Verdict(lane, measure, value, limit, math.isfinite(value) and (limit is None or value <= limit))


@dataclass(frozen=True)
class _Reading:
    """Per place of a text: surprise at the token that came (nats), and the token that was expected."""

    surprise: NDArray[np.float64]
    expected: NDArray[np.int64]


def _read(decoder: Decoder, windows: Sequence[Ids]) -> _Reading:
    surprise, expected = [], []
    for ids in windows:
        decoder.reset()
        logits = decoder.step([ids], every=True)[:-1]
        top = logits.max(axis=1)
        spread = np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)) + top
        surprise.append(spread - logits[np.arange(len(logits)), list(ids[1:])])
        expected.append(logits.argmax(axis=1))
    return _Reading(np.concatenate(surprise), np.concatenate(expected))


def _compare(readings: Mapping[str, _Reading], full: Mapping[str, _Reading], claimed: Sequence[str]) -> DecoderScore:
    def rise(language: str) -> float:
        return float(np.exp(readings[language].surprise.mean() - full[language].surprise.mean())) - 1

    def agreement(language: str) -> float:
        return float((readings[language].expected == full[language].expected).mean())

    return DecoderScore(
        perplexity={language: float(np.exp(reading.surprise.mean())) for language, reading in readings.items()},
        # numpy's, because Python's max skips a NaN that does not come first, and a lane that yields NaN would pass.
        agreement=float(np.min([agreement(language) for language in claimed])),
        rise=float(np.max([rise(language) for language in claimed])),
    )
