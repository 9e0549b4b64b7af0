"""Figures of repeated measurements, and which of a peer's configurations it is fair to be compared with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

ROUNDING = 1e-3  # Perplexities closer than this share are equal: two programs add the same numbers in another order.


@dataclass(frozen=True)
class Figure:
    """What the rounds of one load gave: `median` of at least one value, and the spread."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.least:.4g}–{self.most:.4g})"


def figure(values: Sequence[float]) -> Figure:
    return Figure(median(values), min(values), max(values))


@dataclass(frozen=True)
class Load:
    """One thing that is measured. `at_least`: the ratio that ours must have, None where it is only shown."""

    name: str
    unit: str
    at_least: float | None = None
    less_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """Ours beside one peer, or beside a bound of its own (then `peer_name` says what it is measured against).

    `ratio` is how many times better ours is, whichever way the unit counts; None if the peer was not run. `fair`:
    whether the peer's perplexity is as good as ours, so that `at_least` holds against it.
    """

    load: Load
    lane: str
    ours: Figure | None
    peer_name: str
    peer: Figure | None
    fair: bool = True
    why: str = ""

    @property
    def ratio(self) -> float | None:
        if self.ours is None or self.peer is None:
            return None
        if self.load.less_is_better:
            return self.peer.median / self.ours.median
        return self.ours.median / self.peer.median

    @property
    def at_least(self) -> float | None:
        return self.load.at_least if self.fair else None

    @property
    def missed(self) -> bool:
        return self.at_least is not None and self.ratio is not None and self.ratio < self.at_least

    def as_json(self) -> dict[str, Any]:
        """The row of build/bench.json."""
        return {
            "name": self.load.name,
            "unit": self.load.unit,
            "lane": self.lane,
            "ours": None if self.ours is None else vars(self.ours),
            "peer": None if self.peer is None else vars(self.peer),
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "at_least": self.at_least,
            "missed": self.missed,
            "why": self.why,
        }


def is_fair(ours: float, peer: float) -> bool:
    """Whether a peer of perplexity `peer` computes as well as a lane of perplexity `ours`, or better."""
    return peer <= ours * (1 + ROUNDING)


def compare(
    load: Load, lane: str, ours: Figure, peers: Mapping[str, Figure], perplexity: Mapping[str, float]
) -> Iterable[Row]:
    """A row for every peer. The fair ones count; the fastest of any quality is shown wherever it stands.

    `perplexity` is by name of lane and of peer, all on the same text.
    """
    for name, measured in peers.items():
        fair = is_fair(perplexity[lane], perplexity[name])
        why = "" if fair else f"perplexity {perplexity[name]:.3f}, ours {perplexity[lane]:.3f}: shown only"
        yield Row(load, lane, ours, name, measured, fair, why)
