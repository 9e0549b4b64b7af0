"""Texts to vectors. Batches are made across calls: one call's thousand texts never hold up another's single one."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.engine.protocol import EmbedResult, TooLong

Results = list[tuple[int, EmbedResult | TooLong]]
Ids = list[int]


class Encoder:
    """Runs one batch. Its rows do not influence each other: the graph promises that, and quantizes row by row."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session

    def run(self, texts: Sequence[Ids]) -> NDArray[np.float32]:
        """Unit vectors float32 [texts, dim] of token ids, each text at least one token."""
        lengths = np.array([len(ids) for ids in texts], dtype=np.int32)
        longest = int(lengths.max())
        inside = np.arange(longest) < lengths[:, None]
        places = np.flatnonzero(inside)
        unpack = np.zeros(inside.shape, dtype=np.int64)
        unpack[inside] = np.arange(places.size)
        vectors: NDArray[np.float32] = self._session.run(
            ["embedding"],
            {
                "input_ids": np.concatenate([np.asarray(ids, dtype=np.int64) for ids in texts]),
                "position_ids": places % longest,
                "unpack_idx": unpack,
                "pack_idx": places,
                "lengths": lengths,
            },
        )[0]
        return vectors


class Encodes(Protocol):
    """What the batcher needs of an encoder."""

    def run(self, texts: Sequence[Ids]) -> NDArray[np.float32]: ...


class Splits(Protocol):
    """What the batcher needs of a tokenizer."""

    def encode(self, text: str, room: int, framed: bool = False) -> Ids | None: ...


@dataclass
class Embedding:
    """One call under way; texts are tokenized when their turn comes."""

    call: int
    texts: tuple[str, ...]
    tokens: list[int] = field(default_factory=list)
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)


class Batcher:
    """Not thread-safe: one thread submits, cancels and steps.

    A step takes texts from the calls in turn until `batch_tokens` are gathered, sorts them by length and runs them in
    batches of at most `batch_tokens` padded tokens. A text over `context_tokens` fails its whole call, uncut.
    """

    def __init__(self, encoder: Encodes, tokens: Splits, context_tokens: int, batch_tokens: int) -> None:
        self._encoder = encoder
        self._tokens = tokens
        self._context_tokens = context_tokens
        self._batch_tokens = batch_tokens
        self._calls: deque[Embedding] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._calls)

    def submit(self, embedding: Embedding) -> None:
        self._calls.append(embedding)

    def cancel(self, call: int) -> None:
        self._calls = deque(embedding for embedding in self._calls if embedding.call != call)

    def step(self) -> Results:
        results: Results = []
        gathered = self._gather(results)
        gathered.sort(key=lambda entry: len(entry[2]))
        for batch in _batches(gathered, self._batch_tokens):
            vectors = self._encoder.run([ids for _, _, ids in batch])
            for (embedding, place, _), vector in zip(batch, vectors, strict=True):
                embedding.vectors[place] = vector
        for embedding in [call for call in self._calls if len(call.vectors) == len(call.texts)]:
            self._calls.remove(embedding)
            vectors = np.stack([embedding.vectors[place] for place in range(len(embedding.texts))])
            results.append((embedding.call, EmbedResult(vectors, tuple(embedding.tokens))))
        return results

    def _gather(self, results: Results) -> list[tuple[Embedding, int, Ids]]:
        """Next texts, one of each call in turn. Calls that cannot be served leave with the reason."""
        gathered: list[tuple[Embedding, int, Ids]] = []
        total = 0
        open_calls = deque(self._calls)
        while open_calls and total < self._batch_tokens:
            embedding = open_calls.popleft()
            place = len(embedding.tokens)
            ids = self._tokens.encode(embedding.texts[place], self._context_tokens, framed=True)
            if ids is None:
                self._calls.remove(embedding)
                gathered = [entry for entry in gathered if entry[0] is not embedding]
                message = f"the text is longer than the model's {self._context_tokens} tokens: split it"
                results.append((embedding.call, TooLong(message, f"texts[{place}]")))
                continue
            embedding.tokens.append(len(ids))
            gathered.append((embedding, place, ids))
            total += len(ids)
            if place + 1 < len(embedding.texts):
                open_calls.append(embedding)
        self._calls.rotate(-1)  # The next step starts with another call.
        return gathered


def _batches(gathered: list[tuple[Embedding, int, Ids]], batch_tokens: int) -> list[list[tuple[Embedding, int, Ids]]]:
    """Runs of entries, shortest texts first, whose padded size (count times the longest) stays within the budget."""
    batches: list[list[tuple[Embedding, int, Ids]]] = []
    for entry in gathered:
        if batches and (len(batches[-1]) + 1) * len(entry[2]) <= batch_tokens:
            batches[-1].append(entry)
        else:
            batches.append([entry])
    return batches
