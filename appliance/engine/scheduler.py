"""Continuous batching for one decoder: rows join and leave between steps, and nobody waits for a long prompt.

A step takes one token of every sequence that is being answered, and then at most one chunk of one prompt. Prompts take
turns chunk by chunk in the order they came. A prompt's chunks are cut at the same places and run alone whatever else
goes on, so an answer never depends on its neighbours.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.engine.answer import Answer
from appliance.engine.cache import Slots
from appliance.engine.decoder import Row
from appliance.engine.protocol import EngineUnavailable, Finished, GenerateEvent, Started
from appliance.engine.sampling import Sampler

Events = list[tuple[int, GenerateEvent | EngineUnavailable]]


class Steps(Protocol):
    """What the scheduler needs of a decoder."""

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]: ...


@dataclass
class Generation:
    """One call under way. `limit`: the most new tokens; prompt plus limit fits in a slot."""

    call: int
    prompt: list[int]
    limit: int
    sampler: Sampler
    answer: Answer
    stop_tokens: frozenset[int]
    slot: int = -1
    cached: int = 0
    made: int = 0
    last: int = field(default=-1)


class Scheduler:
    """Not thread-safe: one thread submits, cancels and steps."""

    def __init__(self, decoder: Steps, slots: Slots, prefill_tokens: int) -> None:
        self._decoder = decoder
        self._slots = slots
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Generation] = deque()
        self._prefilling: deque[Generation] = deque()
        self._answering: list[Generation] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._prefilling or self._answering)

    def submit(self, generation: Generation) -> None:
        self._waiting.append(generation)

    def cancel(self, call: int) -> None:
        """Its slot is free at once. Unknown calls (already finished) are fine."""
        for line in (self._waiting, self._prefilling, self._answering):
            for generation in line:
                if generation.call == call:
                    line.remove(generation)
                    if generation.slot >= 0:
                        self._slots.release(generation.slot)
                    return

    def step(self) -> Events:
        events: Events = []
        self._admit(events)
        self._answer(events)
        self._prefill(events)
        return events

    def _admit(self, events: Events) -> None:
        while self._waiting and self._slots.free:
            generation = self._waiting.popleft()
            generation.slot = self._slots.allocate()
            self._prefilling.append(generation)
            events.append((generation.call, Started(len(generation.prompt))))

    def _answer(self, events: Events) -> None:
        rows = self._answering
        if not rows:
            return
        logits = self._decoder.run([Row(row.slot, (row.last,), row.cached) for row in rows])
        self._answering = []
        for generation, scores in zip(rows, logits, strict=True):
            generation.cached += 1
            self._take(generation, scores, events)

    def _prefill(self, events: Events) -> None:
        if not self._prefilling:
            return
        generation = self._prefilling.popleft()
        start = generation.cached
        chunk = generation.prompt[start : start + self._prefill_tokens]
        logits = self._decoder.run([Row(generation.slot, chunk, start)])
        generation.cached += len(chunk)
        if generation.cached < len(generation.prompt):
            self._prefilling.append(generation)
        else:
            self._take(generation, logits[0], events)

    def _take(self, generation: Generation, logits: NDArray[np.float32], events: Events) -> None:
        """Draw the next token and either finish or go on answering."""
        call = generation.call
        try:
            token = generation.sampler.draw(logits)
        except FloatingPointError as error:
            self._slots.release(generation.slot)
            events.append((call, EngineUnavailable(str(error))))
            return
        generation.last = token
        generation.made += 1
        delta, stopped = None, token in generation.stop_tokens
        at_end = stopped
        if not stopped:
            delta, stopped = generation.answer.push(token)
            at_end = not stopped and generation.made == generation.limit
        if delta:
            events.append((call, delta))
        if at_end and (rest := generation.answer.flush()):
            events.append((call, rest))
        if stopped or at_end:
            self._slots.release(generation.slot)
            finished = Finished("stop" if stopped else "length", len(generation.prompt), generation.made)
            events.append((call, finished))
        else:
            self._answering.append(generation)
