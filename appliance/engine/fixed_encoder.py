"""An encoder for devices that compile a graph for one shape: each text is padded to it, and the padding masked."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.encoder import Encoder, Ids


class FixedEncoder:
    """Implements `Encodes`: one text a run, each padded to `tokens`, so that every run has the same shape."""

    def __init__(self, session: ort.InferenceSession, tokens: int) -> None:
        self._session = session
        self._tokens = tokens

    def run(self, texts: Sequence[Ids]) -> NDArray[np.float32]:
        """Unit vectors float32 [texts, dim]; every text has 1 to `tokens` token ids."""
        return np.concatenate([self._run(ids) for ids in texts])

    def _run(self, ids: Ids) -> NDArray[np.float32]:
        places = np.arange(self._tokens)
        padded = np.zeros(self._tokens, dtype=np.int64)
        padded[: len(ids)] = ids
        vectors: NDArray[np.float32] = self._session.run(
            ["embedding"],
            {
                "input_ids": padded,
                "position_ids": places,
                "unpack_idx": places[None],
                "pack_idx": places,
                "lengths": np.array([len(ids)], dtype=np.int32),
            },
        )[0]
        return vectors


def make_encoder(session: ort.InferenceSession, tokens: int | None) -> Encoder | FixedEncoder:
    """`tokens`: of the only shape that the session's device runs; None for any."""
    return Encoder(session) if tokens is None else FixedEncoder(session, tokens)
