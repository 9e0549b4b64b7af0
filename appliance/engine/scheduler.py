"""Continuous batching for one decoder: rows join and leave between steps, and nobody waits for a long prompt.

A step takes the next token of every sequence that is being answered, with guesses at the ones after it where they pay,
and a bounded number of tokens of prompts. Owners take turns. A decoder that `mixes` does all that in one run, because
there a row's result hangs on nothing but its own tokens; for another one a prompt's chunks are cut at the same places
and run alone whatever else goes on. Either way an answer never depends on its neighbours.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.engine.answer import Answer
from appliance.engine.decoder import Row
from appliance.engine.lookup import Lookup
from appliance.engine.prefixes import Prefixes
from appliance.engine.protocol import EngineError, EngineUnavailable, Finished, GenerateEvent, Started
from appliance.engine.sampling import Sampler

Events = list[tuple[int, GenerateEvent | EngineError]]


class Steps(Protocol):
    """What the scheduler needs of a decoder."""

    @property
    def mixes(self) -> bool: ...

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]: ...


@dataclass(eq=False)  # A call is itself, whatever another one holds.
class Generation:
    """One call under way. `limit`: the most new tokens; prompt plus limit fits in a slot."""

    call: int
    prompt: list[int]
    limit: int
    sampler: Sampler
    answer: Answer
    stop_tokens: frozenset[int]
    owner: str = ""
    guesses: bool = True
    slot: int = -1
    cached: int = 0  # tokens whose rows are in the cache
    made: list[int] = field(default_factory=list)
    waited: int = 0  # steps that its prompt has been passed over
    lookup: Lookup | None = None

    @property
    def left(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.prompt) - self.cached


class Scheduler:
    """Not thread-safe: one thread submits, cancels and steps."""

    def __init__(self, decoder: Steps, prefixes: Prefixes, prefill_tokens: int) -> None:
        self._decoder = decoder
        self._prefixes = prefixes
        self._prefill_tokens = prefill_tokens
        self._waiting: dict[str, deque[Generation]] = {}  # by owner; the one whose turn it is first
        self._prefilling: list[Generation] = []
        self._answering: list[Generation] = []

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._prefilling or self._answering)

    def submit(self, generation: Generation) -> None:
        self._waiting.setdefault(generation.owner, deque()).append(generation)

    def cancel(self, call: int) -> None:
        """Its slot is free at once. Unknown calls (already finished) are fine."""
        for generation in [*self._prefilling, *self._answering]:
            if generation.call == call:
                self._leave(generation)
                return
        for line in self._waiting.values():
            for generation in line:
                if generation.call == call:
                    line.remove(generation)
                    break
        self._waiting = {owner: line for owner, line in self._waiting.items() if line}

    def step(self) -> Events:
        events: Events = []
        self._admit(events)
        answers = [self._next_row(generation) for generation in self._answering]
        if self._decoder.mixes:
            self._run([*zip(self._answering, answers, strict=True), *self._prompt_rows()], events)
        else:
            chunk = self._whole_chunk()
            self._run(list(zip(self._answering, answers, strict=True)), events)
            self._run(chunk, events)
        return events

    # Who may begin.

    def _admit(self, events: Events) -> None:
        """The first of each owner in turn, until one finds no room: a small one behind it must not starve it."""
        held: set[str] = set()
        while (owner := next((owner for owner in self._waiting if owner not in held), None)) is not None:
            generation = self._waiting[owner][0]
            if self._prefixes.pending(generation.prompt, owner):
                held.add(owner)  # Soon the beginning of its prompt is there for the taking.
                continue
            place = self._prefixes.admit(generation.prompt, generation.limit, owner)
            if place is None:
                return
            generation.slot, generation.cached = place
            self._take_turn(owner)
            self._prefilling.append(generation)
            events.append((generation.call, Started(len(generation.prompt), generation.cached)))

    def _take_turn(self, owner: str) -> None:
        line = self._waiting.pop(owner)
        line.popleft()
        if line:
            self._waiting[owner] = line  # Now the last to be asked.

    # What a step computes.

    def _next_row(self, generation: Generation) -> Row:
        """The last token that was drawn, and guesses at those after it."""
        guesses: list[int] = []
        if generation.lookup is not None:
            most = generation.limit - len(generation.made) - 1
            guesses = generation.lookup.guess(len(self._answering), most)
        return Row(generation.slot, [generation.made[-1], *guesses], generation.cached, 1 + len(guesses))

    def _prompt_rows(self) -> Iterator[tuple[Generation, Row]]:
        """Parts of prompts, `prefill_tokens` together: the shortest first, but each step of waiting shortens."""
        left = self._prefill_tokens
        for generation in sorted(self._prefilling, key=lambda g: g.left - g.waited * self._prefill_tokens):
            count = min(left, generation.left)
            generation.waited += 1
            if count:
                generation.waited = 0
                yield generation, self._prompt_row(generation, count)
            left -= count

    def _whole_chunk(self) -> list[tuple[Generation, Row]]:
        """A part of one prompt, cut where it would be cut if it were alone; prompts take turns."""
        if not self._prefilling:
            return []
        generation = self._prefilling.pop(0)
        self._prefilling.append(generation)
        return [(generation, self._prompt_row(generation, min(self._prefill_tokens, generation.left)))]

    def _prompt_row(self, generation: Generation, count: int) -> Row:
        start = generation.cached
        return Row(generation.slot, generation.prompt[start : start + count], start, int(count == generation.left))

    def _run(self, work: list[tuple[Generation, Row]], events: Events) -> None:
        if not work:
            return
        logits = self._decoder.run([row for _, row in work])
        at = 0
        for generation, row in work:
            if generation.left > 0:
                generation.cached += len(row.tokens)
                self._prefixes.progress(generation.slot, generation.cached)
                certain: Sequence[int] = ()
            else:
                generation.cached += 1
                certain = row.tokens[1:]
            if row.wanted:
                self._take(generation, logits[at : at + row.wanted], certain, events)
            at += row.wanted

    # What comes of it.

    def _take(
        self, generation: Generation, logits: NDArray[np.float32], guesses: Sequence[int], events: Events
    ) -> None:
        """Draw tokens one after another as long as they are as guessed. Each is drawn from its own logits by the same
        sampler, so guesses change how soon tokens come and never which."""
        if not generation.made:
            self._prefilling.remove(generation)
            self._answering.append(generation)
            if generation.guesses and self._decoder.mixes:
                generation.lookup = Lookup(generation.prompt)
        for place, scores in enumerate(logits):
            if self._draw(generation, scores, events):
                return
            right = place < len(guesses) and generation.made[-1] == guesses[place]
            if not right:
                if generation.lookup is not None and guesses:
                    generation.lookup.learn(place, wrong=place < len(guesses))
                return
            generation.cached += 1

    def _draw(self, generation: Generation, logits: NDArray[np.float32], events: Events) -> bool:
        """One more token of the answer; whether it was the last."""
        call = generation.call
        try:
            drawn = generation.sampler.draw(logits)
        except (FloatingPointError, EngineError) as error:
            self._leave(generation, spoilt=True)
            events.append((call, error if isinstance(error, EngineError) else EngineUnavailable(str(error))))
            return True
        token = drawn.token
        generation.made.append(token)
        if generation.lookup is not None:
            generation.lookup.push(token)
        event, stopped = None, token in generation.stop_tokens
        at_end = stopped
        if not stopped:
            event, stopped = generation.answer.push(drawn)
            at_end = not stopped and len(generation.made) == generation.limit
        if event:
            events.append((call, event))
        if at_end and (rest := generation.answer.flush()):
            events.append((call, rest))
        if stopped or at_end:
            self._leave(generation)
            reason = generation.answer.reason if stopped else "length"
            finished = Finished(reason, len(generation.prompt), len(generation.made))
            events.append((call, finished))
        return stopped or at_end

    def _leave(self, generation: Generation, spoilt: bool = False) -> None:
        """Its rows stay for others unless they are `spoilt`."""
        line = self._answering if generation in self._answering else self._prefilling
        line.remove(generation)
        # Where rounding hangs on the number of tokens, an answer's rows are not those of the same text in a prompt.
        tokens = [*generation.prompt, *generation.made] if self._decoder.mixes else generation.prompt
        self._prefixes.release(generation.slot, [] if spoilt else tokens[: generation.cached])
