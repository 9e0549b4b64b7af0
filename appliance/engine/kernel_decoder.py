"""One packed step of a decoder on our own operators: like `decoder`, with nothing padded and a cache of whole numbers.

A token's result depends on the tokens before it alone, to the bit: not on its neighbours nor on a prompt's cuts.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.cache import Cache, Tile
from appliance.engine.decoder import WANTED_MAX, Row, wanted_places
from kernels.packing import TILE_TOKENS, tile_bytes


def kernel_tile(head_dim: int) -> Tile:
    return Tile(TILE_TOKENS, tile_bytes(head_dim))


class KernelDecoder:
    mixes = True  # Any rows may run together, cut anywhere.

    def __init__(self, session: ort.InferenceSession, cache: Cache, vocab: int) -> None:
        self._session = session
        self._cache = cache  # Its memory is bound below.
        self._logits = np.empty((cache.slots * WANTED_MAX, vocab), dtype=np.float32)
        self._binding = session.io_binding()  # Kept, because binding every layer anew costs time.
        for name, buffer in cache.buffers.items():
            for bind, port in ((self._binding.bind_input, "past_key_values"), (self._binding.bind_output, "present")):
                bind(f"{port}.{name}", "cpu", 0, np.uint8, buffer.shape, buffer.ctypes.data)

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Logits float32 [wanted in all, vocab] in the order of rows, valid until the next run. One row per slot."""
        counts = np.array([len(row.tokens) for row in rows], dtype=np.int32)
        ends = counts.cumsum(dtype=np.int32)
        slots, starts = (np.array([getattr(row, name) for row in rows], dtype=np.int32) for name in ("slot", "start"))
        inputs: dict[str, NDArray[np.int32] | NDArray[np.int64]] = {
            "input_ids": np.array([token for row in rows for token in row.tokens], dtype=np.int64),
            "sequences": np.stack([slots, starts, counts, ends - counts], axis=1),
            "logit_idx": wanted_places(rows, ends.astype(np.int64)),
        }
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        logits = self._logits[: sum(row.wanted for row in rows)]
        self._binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        return logits
