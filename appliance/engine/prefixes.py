"""Who has which slot of the cache, and what the slots of finished sequences still hold for those who begin alike.

A finished sequence's rows stay until its slot or its memory is needed; then the one unused for longest goes first.
A new sequence begins with the longest beginning that it shares with any slot, taken over or copied, all but its last
token: that one has to be computed for its logits. Sequences of different owners share nothing unless a box is told
otherwise, because how long a prompt takes would tell one of them what the other has asked.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
WORTH_WAITING = 32  # Tokens; fewer are computed sooner than waited for.
NOTHING: Ids = np.empty(0, dtype=np.int64)


class Rows(Protocol):
    """What is needed of a cache."""

    @property
    def slots(self) -> int: ...

    @property
    def bytes_per_token(self) -> int: ...

    def copy(self, source: int, target: int, tokens: int) -> None: ...

    def forget(self, slot: int, keep: int = 0) -> None: ...


@dataclass
class Slot:
    """`tokens` whose rows are there (an idle slot) or will be (a busy one, of which `ready` are there)."""

    number: int
    tokens: Ids = field(default_factory=lambda: NOTHING)
    owner: str = ""
    busy: bool = False
    ready: int = 0
    reserved: int = 0  # tokens that a busy slot may grow to
    used: int = 0  # when it was last given back

    @property
    def held(self) -> int:
        """Tokens that memory is counted for."""
        return self.reserved if self.busy else len(self.tokens)


class Prefixes:
    """`budget`: bytes of rows at most, of busy and idle slots together. `step`: reuse ends at a multiple of it.

    `apart`: different owners share nothing.
    """

    def __init__(self, cache: Rows, budget: int, step: int = 1, apart: bool = True) -> None:
        self._cache = cache
        self._tokens_max = budget // cache.bytes_per_token
        self._step = step
        self._apart = apart
        self._slots = [Slot(number) for number in range(cache.slots)]
        self._clock = itertools.count(1)

    @property
    def busy(self) -> int:
        return sum(slot.busy for slot in self._slots)

    @property
    def bytes_held(self) -> int:
        return sum(slot.held for slot in self._slots) * self._cache.bytes_per_token

    @property
    def tokens_max(self) -> int:
        """A sequence that may grow beyond this can never be admitted."""
        return self._tokens_max

    def admit(self, prompt: Sequence[int], limit: int, owner: str) -> tuple[int, int] | None:
        """A slot for a prompt and up to `limit` more tokens, and how many of the prompt are there already.

        None: no slot or no memory is free just now.
        """
        ids, needed = np.asarray(prompt, dtype=np.int64), len(prompt) + limit
        idle = sorted((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.used)
        if not idle or sum(slot.reserved for slot in self._slots if slot.busy) + needed > self._tokens_max:
            return None
        best, shared = self._longest(ids, owner)
        target = idle[0]
        if best is not None and not best.busy and (len(best.tokens) == shared or len(idle) == 1):
            target = best  # Nothing is lost, or there is no other.
        elif best is target and shared:
            target = idle[1]
        if len(target.tokens) > shared:
            self._cache.forget(target.number, keep=shared)
        if best is not None and shared and best is not target:
            self._cache.copy(best.number, target.number, shared)
        target.busy, target.owner, target.reserved = True, owner, needed
        target.tokens, target.ready = ids, shared
        self._make_room()
        return target.number, shared

    def pending(self, prompt: Sequence[int], owner: str) -> bool:
        """Whether a prompt under way will soon hold clearly more of this one's beginning than any slot does now."""
        ids = np.asarray(prompt, dtype=np.int64)
        _, ready = self._longest(ids, owner)
        coming = [
            self._round(min(_common(slot.tokens, ids), len(ids) - 1)) for slot in self._sharing(owner) if slot.busy
        ]
        return max(coming, default=0) >= ready + WORTH_WAITING

    def progress(self, slot: int, ready: int) -> None:
        """So many of a busy slot's tokens have rows now."""
        self._slots[slot].ready = ready

    def release(self, slot: int, tokens: Sequence[int]) -> None:
        """Its sequence is over and left the rows of `tokens`."""
        entry = self._slots[slot]
        assert entry.busy
        entry.busy, entry.reserved, entry.used = False, 0, next(self._clock)
        entry.tokens, entry.ready = np.asarray(tokens, dtype=np.int64), len(tokens)
        if not entry.ready:
            self._cache.forget(slot)

    def _longest(self, ids: Ids, owner: str) -> tuple[Slot | None, int]:
        """The slot whose rows begin most like `ids`, an idle one rather than a busy one, and how far."""
        best, most = None, 0
        for slot in sorted(self._sharing(owner), key=lambda slot: slot.busy):
            shared = self._round(min(_common(slot.tokens[: slot.ready], ids), len(ids) - 1))
            if shared > most:
                best, most = slot, shared
        return best, most

    def _sharing(self, owner: str) -> list[Slot]:
        return [slot for slot in self._slots if not self._apart or slot.owner == owner]

    def _round(self, tokens: int) -> int:
        return tokens // self._step * self._step

    def _make_room(self) -> None:
        """Idle rows go, the longest unused first, until all fit."""
        for slot in sorted((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.used):
            if sum(each.held for each in self._slots) <= self._tokens_max:
                return
            if len(slot.tokens):
                self._cache.forget(slot.number)
                slot.tokens, slot.ready = NOTHING, 0


def _common(first: Ids, second: Ids) -> int:
    """How many tokens two sequences have alike at their beginning."""
    length = min(len(first), len(second))
    differing = np.flatnonzero(first[:length] != second[:length])
    return int(differing[0]) if len(differing) else length
