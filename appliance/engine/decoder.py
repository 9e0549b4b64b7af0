"""One packed step of a decoder on ONNX Runtime's operators: any rows, each with any number of new tokens, in one run.

The graph computes on the packed tokens of all rows; only attention sees the padded shape [rows, longest]. Past and
present keys and values are the same memory, so a step moves none of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.cache import Cache, Tile
from appliance.engine.lookup import GUESSES_MAX

WANTED_MAX = 1 + GUESSES_MAX  # logits of one row: after its last certain token, and after each guess.


@dataclass(frozen=True)
class Row:
    """New `tokens` (at least one) of the sequence in `slot`, which has `start` tokens in the cache already.

    `wanted`: after how many of its last tokens logits are needed.
    """

    slot: int
    tokens: Sequence[int]
    start: int
    wanted: int = 1


def wanted_places(rows: Sequence[Row], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where, among the tokens of a step, those stand whose logits are needed; `ends`: where each row ends."""
    return np.concatenate([np.arange(end - row.wanted, end) for row, end in zip(rows, ends, strict=True)])


def plain_tile(head_dim: int) -> Tile:
    """One token's float32 numbers."""
    return Tile(1, head_dim * np.dtype(np.float32).itemsize)


class Decoder:
    mixes = (
        False  # Kernels round otherwise for another number of tokens: prompts are cut at fixed places and run alone.
    )

    def __init__(self, session: ort.InferenceSession, cache: Cache, vocab: int) -> None:
        self._session = session
        self._cache = cache
        self._capacity = np.array(cache.capacity, dtype=np.int32)
        self._logits = np.empty((cache.slots * WANTED_MAX, vocab), dtype=np.float32)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits float32 [wanted in all, vocab] in the order of rows, valid until the next run. One row per slot."""
        low = min(row.slot for row in rows)
        high = max(row.slot for row in rows) + 1
        binding = self._binding(low, high)
        for name, value in self._inputs(rows, low, high - low).items():
            binding.bind_cpu_input(name, value)
        logits = self._logits[: sum(row.wanted for row in rows)]
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _inputs(self, rows: Sequence[Row], low: int, batch: int) -> dict[str, NDArray[np.int64] | NDArray[np.int32]]:
        """`batch` rows from slot `low` on; a slot among them with nothing new brings 0 tokens and stays as it is."""
        longest = max(len(row.tokens) for row in rows)
        total = sum(len(row.tokens) for row in rows)
        ids = np.empty(total, dtype=np.int64)
        pack = np.empty(total, dtype=np.int64)
        unpack = np.zeros((batch, longest), dtype=np.int64)
        ends = np.empty(len(rows), dtype=np.int64)
        fresh = np.zeros(batch, dtype=np.int32)
        length = np.zeros(batch, dtype=np.int32)
        at = 0
        for place, row in enumerate(rows):
            count, line = len(row.tokens), row.slot - low
            assert count and row.start + count <= self._cache.capacity
            ids[at : at + count] = row.tokens
            pack[at : at + count] = np.arange(line * longest, line * longest + count)
            unpack[line, :count] = np.arange(at, at + count)
            fresh[line] = count
            length[line] = row.start + count - 1
            at += count
            ends[place] = at
        return {
            "input_ids": ids,
            "unpack_idx": unpack,
            "pack_idx": pack,
            "logit_idx": wanted_places(rows, ends),
            "query_seqlens": fresh,
            "seqlens_k": length,
            "total_sequence_length": self._capacity,
        }

    def _binding(self, low: int, high: int) -> ort.IOBinding:
        """The cache rows of slots low…high-1, bound in place; kept, because binding every layer anew costs time."""
        if (low, high) not in self._bindings:
            binding = self._session.io_binding()
            for name, buffer in self._cache.buffers.items():
                rows = buffer[low:high].view(np.float32)
                binding.bind_input(f"past_key_values.{name}", "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
                binding.bind_output(f"present.{name}", "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
            self._bindings[low, high] = binding
        return self._bindings[low, high]
