"""From one row of logits to one token. Each row has its own generator, so neighbours never change an answer."""

import secrets

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import Sampling

STRETCH = 256
BITS = 0xFFFFFFFF


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
        """A place drawn in proportion to the weights: first a stretch of STRETCH, then a place in it.

        That is the same draw as over the sums of all weights, at a fraction of the additions in sequence.
        """
        stretches = np.add.reduceat(weights, np.arange(0, weights.size, STRETCH), dtype=np.float64).cumsum()
        wanted = self._random.random() * stretches[-1]
        stretch = min(int(stretches.searchsorted(wanted, side="right")), stretches.size - 1)
        before = stretches[stretch - 1] if stretch else 0.0
        within = weights[stretch * STRETCH : (stretch + 1) * STRETCH].cumsum(dtype=np.float64)
        place = min(int(within.searchsorted(wanted - before, side="right")), within.size - 1)
        return stretch * STRETCH + place


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
