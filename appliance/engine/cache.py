"""The key/value cache: a fixed number of slots, each the rows of one sequence in every layer's buffers."""

import heapq

import numpy as np
from numpy.typing import NDArray


class Slots:
    """Hands out slot numbers, the lowest free one first: sequences side by side make the smallest batch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))

    @property
    def free(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        """Raises IndexError when none is free."""
        return heapq.heappop(self._free)

    def release(self, slot: int) -> None:
        assert 0 <= slot < self.count and slot not in self._free
        heapq.heappush(self._free, slot)


class Cache:
    """One float32 buffer [slots, kv_heads, capacity, head_dim] for each layer's keys and each layer's values.

    The memory is bounded by that and comes from the system as sequences grow into it.
    """

    def __init__(self, layers: int, slots: int, kv_heads: int, capacity: int, head_dim: int) -> None:
        self.capacity = capacity
        self.slots = slots
        shape = (slots, kv_heads, capacity, head_dim)
        self.buffers: dict[str, NDArray[np.float32]] = {
            f"{layer}.{part}": np.zeros(shape, dtype=np.float32) for layer in range(layers) for part in ("key", "value")
        }
