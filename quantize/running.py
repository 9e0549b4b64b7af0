"""Runs a finished graph just far enough to judge it: logits of a whole text, greedy answers, vectors of texts."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.library import NoLibrary, find_library
from kernels.packing import TILE_TOKENS, tile_bytes
from models.manifest import Geometry

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # Read when onnxruntime is imported, so it must stand before.

import onnxruntime as ort

Ids = Sequence[int]
Floats = NDArray[np.float32]
Places = NDArray[np.int64]


def open_session(graph: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Building shares the machine with whatever else runs there, so threads wait asleep instead of spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with contextlib.suppress(NoLibrary):  # A graph that needs our operators is then refused by name.
        options.register_custom_ops_library(str(find_library()))
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Decoder:
    """A decoder graph with a cache of its own for `rows` sequences of up to `capacity` tokens."""

    def __init__(self, graph: Path, geometry: Geometry, rows: int, capacity: int, threads: int = 2) -> None:
        self._session = open_session(graph, threads)
        self._layers = geometry.layers
        self._on_kernels = any(port.name == "sequences" for port in self._session.get_inputs())
        shape = (rows, geometry.kv_heads, capacity, geometry.head_dim)
        if self._on_kernels:
            shape = (rows, geometry.kv_heads, -(-capacity // TILE_TOKENS), tile_bytes(geometry.head_dim))
        kind = np.uint8 if self._on_kernels else np.float32
        self._cache = [ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, kind)) for _ in range(2 * geometry.layers)]
        self._capacity = capacity
        self._lengths = np.zeros(rows, np.int64)

    def reset(self) -> None:
        self._lengths[:] = 0

    def step(self, news: Sequence[Ids], *, every: bool = False, wanted: Ids | None = None) -> Floats:
        """Each row brings its new tokens (none: it idles). Logits of the last token each brought, or of every token,
        or of those `wanted` (places among all that are brought).
        """
        counts = np.array([len(new) for new in news])
        ends = np.cumsum(counts)
        if wanted is None:
            wanted = list(range(ends[-1])) if every else [int(end) - 1 for end in ends[counts > 0]]
        feeds: dict[str, NDArray[np.generic]] = {
            "input_ids": np.array([token for new in news for token in new], np.int64),
            "logit_idx": np.array(wanted, np.int64),
        }
        places = self._sequences(counts, ends) if self._on_kernels else self._padding(counts, ends)
        self._lengths += counts
        return self._run(feeds | places)

    def _sequences(self, counts: Places, ends: Places) -> dict[str, NDArray[np.generic]]:
        fields = np.stack([np.arange(len(counts)), self._lengths, counts, ends - counts], axis=1)
        return {"sequences": fields.astype(np.int32)}

    def _padding(self, counts: Places, ends: Places) -> dict[str, NDArray[np.generic]]:
        width = int(counts.max())
        unpack = np.zeros((len(counts), width), np.int64)
        for row, (count, end) in enumerate(zip(counts, ends, strict=True)):
            unpack[row, :count] = np.arange(end - count, end)
        pack = np.concatenate([row * width + np.arange(count) for row, count in enumerate(counts)])
        return {
            "unpack_idx": unpack,
            "pack_idx": pack.astype(np.int64),
            "query_seqlens": counts.astype(np.int32),
            "seqlens_k": np.maximum(self._lengths + counts - 1, 0).astype(np.int32),
            "total_sequence_length": np.array(self._capacity, np.int32),
        }

    def greedy(self, prompts: Sequence[Ids], count: int) -> list[list[int]]:
        """`count` most likely tokens after each prompt, the prompts together in one batch."""
        self.reset()
        answers: list[list[int]] = [[] for _ in prompts]
        news: Sequence[Ids] = prompts
        for _ in range(count):
            best = self.step(news).argmax(axis=1)
            for answer, token in zip(answers, best, strict=True):
                answer.append(int(token))
            news = [answer[-1:] for answer in answers]
        return answers

    def _run(self, feeds: dict[str, NDArray[np.generic]]) -> Floats:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_cpu_input(name, value)
        binding.bind_output("logits", "cpu")
        for layer in range(self._layers):
            for at, part in enumerate(("key", "value")):
                buffer = self._cache[2 * layer + at]
                binding.bind_ortvalue_input(f"past_key_values.{layer}.{part}", buffer)
                binding.bind_ortvalue_output(f"present.{layer}.{part}", buffer)
        self._session.run_with_iobinding(binding)
        logits: Floats = binding.get_outputs()[0].numpy()
        return logits


class Encoder:
    """An encoder graph: token ids of several texts in; unit vectors or logits out."""

    def __init__(self, graph: Path, threads: int = 2) -> None:
        self._session = open_session(graph, threads)
        self._typed = "type_ids" in {port.name for port in self._session.get_inputs()}

    def embed(self, texts: Sequence[Ids]) -> Floats:
        return self.run(texts)

    def run(self, texts: Sequence[Ids], types: Sequence[Ids] | None = None) -> Floats:
        """The graph's output. `types`: of every token of each text, for a graph that takes them (None: all 0)."""
        counts = np.array([len(text) for text in texts])
        width = int(counts.max())
        unpack = np.zeros((len(texts), width), np.int64)
        ends = np.cumsum(counts)
        for row, (count, end) in enumerate(zip(counts, ends, strict=True)):
            unpack[row, :count] = np.arange(end - count, end)
        feeds = {
            "input_ids": np.array([token for text in texts for token in text], np.int64),
            "position_ids": np.concatenate([np.arange(count) for count in counts]),
            "unpack_idx": unpack,
            "pack_idx": np.concatenate([row * width + np.arange(count) for row, count in enumerate(counts)]),
            "lengths": counts.astype(np.int32),
        }
        if self._typed:
            given = types if types is not None else [[0] * len(text) for text in texts]
            feeds["type_ids"] = np.array([kind for text in given for kind in text], np.int64)
        values: Floats = self._session.run(None, feeds)[0]
        return values
