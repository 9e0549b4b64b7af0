"""The key/value cache: a fixed number of slots, each the rows of one sequence in every layer's buffers."""

import heapq
import mmap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def keep(_slot: int) -> None:
    """Nothing to do when a slot is released."""


class Slots:
    """Hands out slot numbers, the lowest free one first: sequences side by side make the smallest batch."""

    def __init__(self, count: int, on_release: Callable[[int], None] = keep) -> None:
        self.count = count
        self._on_release = on_release
        self._free = list(range(count))

    @property
    def free(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        """Raises IndexError when none is free."""
        return heapq.heappop(self._free)

    def release(self, slot: int) -> None:
        assert 0 <= slot < self.count and slot not in self._free
        self._on_release(slot)
        heapq.heappush(self._free, slot)


@dataclass(frozen=True)
class Tile:
    """What a cache is made of: `bytes` hold the keys (or values) of `tokens` tokens of one head."""

    tokens: int
    bytes: int


class Cache:
    """One buffer uint8 [slots, kv_heads, tiles, tile bytes] for each layer's keys and each layer's values.

    Memory is bounded by that, comes from the system page by page as sequences grow and goes back when they end. Huge
    pages are declined: the first token of a sequence would take a whole one in every layer and head.
    """

    def __init__(self, layers: int, slots: int, kv_heads: int, capacity: int, tile: Tile) -> None:
        """`capacity` tokens a slot, rounded up to whole tiles."""
        tiles = -(-capacity // tile.tokens)
        self.capacity = capacity
        self.slots = slots
        self.tile = tile
        self._maps: list[mmap.mmap] = []
        self._slot_bytes = kv_heads * tiles * tile.bytes
        shape = (slots, kv_heads, tiles, tile.bytes)
        self.buffers: dict[str, NDArray[np.uint8]] = {
            f"{layer}.{part}": self._map(shape) for layer in range(layers) for part in ("key", "value")
        }

    def forget(self, slot: int) -> None:
        """Give the slot's memory back. What a finished conversation left there is gone, but for parts of pages."""
        start = -(-slot * self._slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (slot + 1) * self._slot_bytes // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            for buffer in self._maps:
                buffer.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _map(self, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        buffer = mmap.mmap(-1, shape[0] * self._slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        buffer.madvise(mmap.MADV_NOHUGEPAGE)
        self._maps.append(buffer)
        return np.frombuffer(buffer, dtype=np.uint8).reshape(shape)
