"""BM25 over the terms of a few hundred short texts: small enough to be made anew whenever a collection changes.

SQLite's own full-text index is not used because it would cut words after rules of its own, not ours.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SATURATION = 1.2  # k1: how soon a repeated term stops counting
LENGTH = 0.75  # b: how much a long text is held against it


class TermIndex:
    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """`texts` are the terms of each text."""
        self._texts = len(texts)
        self._places: dict[str, list[tuple[int, float]]] = {}
        mean = sum(map(len, texts)) / max(1, len(texts)) or 1.0
        for place, terms in enumerate(texts):
            slack = SATURATION * (1 - LENGTH + LENGTH * len(terms) / mean)
            for term, count in Counter(terms).items():
                self._places.setdefault(term, []).append((place, count * (SATURATION + 1) / (count + slack)))

    def scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """BM25 of each text, 0 where it shares no term. A term asked twice counts once."""
        scores = np.zeros(self._texts, np.float32)
        for term in set(terms):
            found = self._places.get(term, ())
            rarity = math.log(1 + (self._texts - len(found) + 0.5) / (len(found) + 0.5))
            for place, weight in found:
                scores[place] += rarity * weight
        return scores
