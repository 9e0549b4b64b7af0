"""Rounds: ours and theirs take turns, so that whatever the machine does besides falls on both alike."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import loads
from tests.bench.llama_cpp import LOOKUPS, LlamaCpp
from tests.bench.ours import Lane
from tests.bench.statistics import Load, Row, compare, figure

Say = Callable[[str], None]


@dataclass
class Measured:
    """Values of all rounds, by load and then by who; perplexities by who."""

    values: dict[Load, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    perplexity: dict[str, float] = field(default_factory=dict)

    def add(self, load: Load, who: str, value: float) -> None:
        self.values[load][who].append(value)


def measure_quality(lanes: Sequence[Lane], peers: Sequence[LlamaCpp], text: Path, measured: Measured, say: Say) -> None:
    """Once each: the same file gives the same perplexity every time."""
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(loads.perplexity_text(), encoding="utf-8")
    for peer in peers:
        say(f"perplexity of {peer.name}")
        measured.perplexity[peer.name] = peer.perplexity(text)
    for lane in lanes:
        say(f"perplexity of {lane.name}")
        measured.perplexity[lane.name] = lane.perplexity()


def measure_speed(lanes: Sequence[Lane], peers: Sequence[LlamaCpp], measured: Measured, say: Say) -> None:
    """One round of prefill and decoding."""
    for lane in lanes:
        say(f"prefill and decode of {lane.name}")
        for count, load in loads.PREFILL.items():
            measured.add(load, lane.name, lane.prefill(count))
        for streams, load in loads.DECODE.items():
            measured.add(load, lane.name, lane.decode(streams))
    for peer in peers:
        say(f"prefill and decode of {peer.name}")
        for count, value in peer.prefill(loads.PREFILLS).items():
            measured.add(loads.PREFILL[count], peer.name, value)
        for streams, value in peer.decode(loads.STREAMS).items():
            measured.add(loads.DECODE[streams], peer.name, value)


def measure_answers(lanes: Sequence[Lane], peers: Sequence[LlamaCpp], measured: Measured, say: Say) -> None:
    """One round of answers that quote their context, and of what the context costs."""
    for lane in lanes:
        say(f"grounded answers of {lane.name}")
        value = lane.grounded(guesses=True)
        measured.add(loads.GROUNDED, lane.name, value)
        measured.add(loads.GROUNDED_LOOKUP, lane.name, value)
        cold, warm = lane.first_token()
        measured.add(loads.FIRST_TOKEN, lane.name, warm)
        measured.add(loads.FIRST_TOKEN, f"{lane.name}, cold", cold)
        measured.add(loads.LONG, lane.name, lane.decode(1, loads.FAR, 32))
        measured.add(loads.LONG, f"{lane.name} at {loads.NEAR}", lane.decode(1, loads.NEAR, 32))
    for peer in peers:
        say(f"grounded answers of {peer.name}")
        with peer.serving() as url:
            measured.add(loads.GROUNDED, peer.name, peer.grounded(url))
        for lookup in LOOKUPS:
            with peer.serving(lookup) as url:
                measured.add(loads.GROUNDED_LOOKUP, f"{peer.name} {' '.join(lookup)}", peer.grounded(url))


def rows_of(measured: Measured, lanes: Sequence[str], peers: Sequence[str]) -> Iterator[Row]:
    """Every lane against every peer; of a peer's own lookups the fastest only."""
    for lane in lanes:
        for name, value in measured.perplexity.items():
            if name == "llama.cpp F32":
                yield Row(
                    loads.QUALITY,
                    lane,
                    figure([measured.perplexity[lane]]),
                    f"{name} (full precision)",
                    figure([value]),
                )
    for load, values in measured.values.items():
        for lane in (lane for lane in lanes if lane in values):
            ours = figure(values[lane])
            theirs = {name: figure(found) for name, found in _best(values, peers).items()}
            quality = measured.perplexity | {name: _quality(measured.perplexity, name) for name in theirs}
            yield from compare(load, lane, ours, theirs, quality)
            for name in (f"{lane}, cold", f"{lane} at {loads.NEAR}"):
                if name in values:
                    yield Row(load, lane, ours, name, figure(values[name]))


def _quality(perplexity: Mapping[str, float], name: str) -> float:
    """Guessing changes no answer: a configuration with lookup computes as well as without."""
    return next(value for peer, value in perplexity.items() if name == peer or name.startswith(f"{peer} "))


def _best(values: Mapping[str, Sequence[float]], peers: Sequence[str]) -> dict[str, Sequence[float]]:
    """For every peer its values, those of its fastest settings if it has several."""
    best: dict[str, Sequence[float]] = {}
    for peer in peers:
        settings = {name: found for name, found in values.items() if name == peer or name.startswith(f"{peer} --")}
        if settings:
            name = max(settings, key=lambda name: figure(settings[name]).median)
            best[name] = settings[name]
    return best
