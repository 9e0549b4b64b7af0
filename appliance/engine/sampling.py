"""From one row of logits to one token. Each row has its own generator, so neighbours never change an answer."""

import secrets

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import Sampling

LIKELY = 512  # Tokens looked at first for top_p: sorting a whole vocabulary takes longer than a small model's step.


def fresh_seed() -> int:
    return secrets.randbits(63)


class Sampler:
    """Draws the tokens of one generation. The same seed and the same logits give the same tokens."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        """`seed` is used where `sampling.seed` is None; any 64-bit signed number."""
        self._sampling = sampling
        chosen = seed if sampling.seed is None else sampling.seed
        self._random = np.random.Generator(np.random.PCG64(chosen % 2**64))

    def draw(self, logits: NDArray[np.float32]) -> int:
        """`logits` float32 [vocab]. Temperature first, then top_k, then top_p, as OpenAI-compatible servers do it.

        Raises FloatingPointError if the model computed something that is not a number.
        """
        top = logits.max()
        if not np.isfinite(top):
            raise FloatingPointError("the model's logits are not finite")
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        with np.errstate(over="ignore", under="ignore"):
            weights = np.exp((logits - top) / np.float32(max(self._sampling.temperature, 1e-6)))
        if not self._sampling.top_k and self._sampling.top_p == 1:
            return self._pick(weights)
        kept = _likeliest(weights, self._sampling.top_k, self._sampling.top_p)
        return int(kept[self._pick(weights[kept])])

    def _pick(self, weights: NDArray[np.float32]) -> int:
        mass = weights.cumsum(dtype=np.float64)
        place = mass.searchsorted(self._random.random() * mass[-1], side="right")
        return min(int(place), weights.size - 1)


def _likeliest(weights: NDArray[np.float32], top_k: int, top_p: float) -> NDArray[np.intp]:
    """Token ids that top_k and top_p leave, likeliest first; of equal ones the smaller id first."""
    count = min(top_k or weights.size, weights.size)
    if top_k or top_p == 1:
        ordered = _largest(weights, count)
        wanted = top_p * float(weights[ordered].sum(dtype=np.float64))
    else:
        ordered = _largest(weights, min(LIKELY, count))
        wanted = top_p * float(weights.sum(dtype=np.float64))
        if float(weights[ordered].sum(dtype=np.float64)) < wanted:
            ordered = _largest(weights, count)
    return ordered if top_p == 1 else _cut(weights, ordered, wanted)


def _cut(weights: NDArray[np.float32], ordered: NDArray[np.intp], wanted: float) -> NDArray[np.intp]:
    """The shortest head of `ordered` whose weights reach `wanted`; never empty."""
    mass = weights[ordered].cumsum(dtype=np.float64)
    return ordered[: int(mass.searchsorted(wanted, side="left")) + 1]


def _largest(weights: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    if count < weights.size:
        chosen = np.argpartition(weights, weights.size - count)[weights.size - count :]
        chosen.sort()
    else:
        chosen = np.arange(weights.size)
    return chosen[np.argsort(-weights[chosen], kind="stable")]
