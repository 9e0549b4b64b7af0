"""The key/value cache: a fixed number of slots, each the rows of one sequence in every layer's buffers."""

import mmap
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray


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
        self._shape = (slots, kv_heads, tiles, tile.bytes)
        self.buffers: dict[str, NDArray[np.uint8]] = {
            f"{layer}.{part}": self._map() for layer in range(layers) for part in ("key", "value")
        }

    @property
    def bytes_per_token(self) -> int:
        """Of all layers, keys and values; a part of a tile counts as its share."""
        _, kv_heads, _, size = self._shape
        return -(-len(self.buffers) * kv_heads * size // self.tile.tokens)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """The rows of the first `tokens` tokens of one slot into another."""
        tiles = -(-tokens // self.tile.tokens)
        for buffer in self.buffers.values():
            buffer[target, :, :tiles] = buffer[source, :, :tiles]

    def forget(self, slot: int, keep: int = 0) -> None:
        """Give memory back: all of the slot's rows but those of the first `keep` tokens and parts of pages."""
        _, kv_heads, tiles, size = self._shape
        kept, head_bytes = -(-keep // self.tile.tokens) * size, tiles * size
        if not kept:
            self._give_back(slot * kv_heads * head_bytes, (slot + 1) * kv_heads * head_bytes)
            return
        for head in range(slot * kv_heads, (slot + 1) * kv_heads):
            self._give_back(head * head_bytes + kept, (head + 1) * head_bytes)

    def _give_back(self, start: int, end: int) -> None:
        """The whole pages of that stretch, in every buffer."""
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end:
            for buffer in self._maps:
                buffer.madvise(mmap.MADV_DONTNEED, start, end - start)

    def _map(self) -> NDArray[np.uint8]:
        buffer = mmap.mmap(-1, prod(self._shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        buffer.madvise(mmap.MADV_NOHUGEPAGE)
        self._maps.append(buffer)
        return np.frombuffer(buffer, dtype=np.uint8).reshape(self._shape)
