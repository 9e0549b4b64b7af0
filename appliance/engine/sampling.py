"""From one row of logits to one token. Each row has its own generator, so neighbours never change an answer.

The order in which a request's wishes count: penalties and `logit_bias` change the logits, the grammar takes tokens out,
the temperature divides, then top_k, top_p and min_p leave the likeliest, and one random number picks among them.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import ChosenToken, Sampling, TokenLogprob

STRETCH = 256
BITS = 0xFFFFFFFF
LOGPROB_MIN = -9999.0  # What OpenAI says of a token that cannot come; minus infinity is no JSON number.


class Constraint(Protocol):
    """What an answer must be, token by token. Both raise EngineError if it cannot be followed any further."""

    def allowed(self, vocab: int) -> NDArray[np.bool_] | None:
        """bool [vocab]: which tokens may come next; None for any."""
        ...

    def accept(self, token: int) -> None: ...


@dataclass(frozen=True)
class Drawn:
    """`logprobs`: if asked for, what the model thought of the token and of its rivals."""

    token: int
    logprobs: ChosenToken | None = None


@dataclass(frozen=True)
class Report:
    """Log probabilities wanted with every token: how many alternatives, and how a token's bytes are spelled."""

    alternatives: int
    spell: Callable[[int], bytes]


def fresh_seed() -> int:
    return secrets.randbits(63)


class Sampler:
    """Draws the tokens of one generation. The same seed and the same logits give the same tokens.

    Every token drawn with a temperature takes exactly one random number, so guessing ahead changes nothing.
    """

    def __init__(
        self, sampling: Sampling, seed: int, constraint: Constraint | None = None, report: Report | None = None
    ) -> None:
        """`seed` is used where `sampling.seed` is None; any 64-bit signed number."""
        self._sampling = sampling
        chosen = seed if sampling.seed is None else sampling.seed
        self._random = np.random.Generator(np.random.PCG64(chosen % 2**64))
        self._constraint = constraint
        self._report = report
        self._penal = bool(sampling.presence_penalty or sampling.frequency_penalty)
        self._bias = dict(sampling.logit_bias)
        self._counts: Counter[int] = Counter()
        self._shift: NDArray[np.float32] | None = None  # What is added to every logit, if anything is.

    def draw(self, logits: NDArray[np.float32]) -> Drawn:
        """`logits` float32 [vocab], left as they are.

        Raises FloatingPointError if the model computed something that is not a number, and what the constraint raises.
        """
        if not np.isfinite(logits.max()):
            raise FloatingPointError("the model's logits are not finite")
        token = self._choose(self._adjusted(logits))
        if self._constraint:
            self._constraint.accept(token)
        if self._penal:
            self._penalize(token)
        return Drawn(token, _report(logits, token, self._report) if self._report else None)

    def _adjusted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._shift is None and (self._penal or self._bias):
            self._shift = np.zeros_like(logits)
            for token, bias in self._bias.items():
                self._shift[token] = bias
        scores = logits if self._shift is None else logits + self._shift
        allowed = self._constraint.allowed(logits.size) if self._constraint else None
        return scores if allowed is None else np.where(allowed, scores, np.float32(-np.inf))

    def _penalize(self, token: int) -> None:
        """OpenAI's penalties: `frequency` for every time that a token has come, `presence` once."""
        assert self._shift is not None
        self._counts[token] += 1
        penalty = self._sampling.presence_penalty + self._sampling.frequency_penalty * self._counts[token]
        self._shift[token] = self._bias.get(token, 0.0) - penalty

    def _choose(self, scores: NDArray[np.float32]) -> int:
        sampling = self._sampling
        if sampling.temperature == 0:
            return int(scores.argmax())
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp((scores - scores.max()) / np.float32(max(sampling.temperature, 1e-6)))
        if not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
            return self._pick(weights)
        if sampling.top_k or sampling.top_p < 1:
            kept = _likeliest(weights, sampling.top_k, sampling.top_p)
            kept = kept[weights[kept] >= sampling.min_p]
        else:
            kept = np.flatnonzero(weights >= sampling.min_p)
        return int(kept[self._pick(weights[kept])])

    def _pick(self, weights: NDArray[np.float32]) -> int:
        """A place drawn in proportion to the weights: first a stretch of STRETCH, then a place in it.

        That is the same draw as over the sums of all weights, at a fraction of the additions in sequence. Rounding
        never leads to a place of weight 0, for what is sought stays below the last sum.
        """
        stretches = np.add.reduceat(weights, np.arange(0, weights.size, STRETCH), dtype=np.float64).cumsum()
        wanted = min(self._random.random() * stretches[-1], np.nextafter(stretches[-1], 0))
        stretch = int(stretches.searchsorted(wanted, side="right"))
        before = stretches[stretch - 1] if stretch else 0.0
        within = weights[stretch * STRETCH : (stretch + 1) * STRETCH].cumsum(dtype=np.float64)
        wanted = min(wanted - before, np.nextafter(within[-1], 0))
        return stretch * STRETCH + int(within.searchsorted(wanted, side="right"))


def _likeliest(weights: NDArray[np.float32], top_k: int, top_p: float) -> NDArray[np.int64]:
    """Token ids that top_k and top_p leave, likeliest first; of equal ones the smaller id first."""
    if top_k:
        count = min(top_k, weights.size)
        ordered = _at_least(weights, np.partition(weights, weights.size - count)[weights.size - count])[:count]
        total = float(weights[ordered].sum(dtype=np.float64))
    else:
        # Tokens below this together weigh less than 1 - top_p of all: none of them is needed to reach top_p.
        total = float(weights.sum(dtype=np.float64))
        ordered = _at_least(weights, np.float32((1 - top_p) * total / weights.size))
    if top_p == 1:
        return ordered
    mass = weights[ordered].cumsum(dtype=np.float64)
    return ordered[: int(mass.searchsorted(top_p * total, side="left")) + 1]


def _at_least(weights: NDArray[np.float32], least: np.float32) -> NDArray[np.int64]:
    """Ids of the weights not below `least`, heaviest first, of equal ones the smaller id first.

    Sorted as whole numbers made of a weight's bits (in order, weights being positive) and its id, which is fast.
    """
    ids = np.flatnonzero(weights >= least)
    keys = ((BITS - weights[ids].view(np.uint32).astype(np.int64)) << 32) | ids
    keys.sort()
    return keys & BITS


def _report(logits: NDArray[np.float32], token: int, report: Report) -> ChosenToken:
    """Natural logarithms of the model's own probabilities: a log-softmax of `logits` as they came."""
    top = logits.max()
    total = float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))

    def entry(token: int) -> TokenLogprob:
        return TokenLogprob(report.spell(token), max(float(logits[token]) - total, LOGPROB_MIN))

    count = min(report.alternatives, logits.size)
    return ChosenToken(entry(token), tuple(entry(rival) for rival in _highest(logits, count)))


def _highest(logits: NDArray[np.float32], count: int) -> list[int]:
    """Ids of the `count` highest, highest first, of equal ones the smaller id first."""
    if not count:
        return []
    ids = np.flatnonzero(logits >= np.partition(logits, logits.size - count)[logits.size - count])
    order: list[int] = ids[np.argsort(-logits[ids], kind="stable")][:count].tolist()
    return order
