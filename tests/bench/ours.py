"""The one place that knows the engine: a package served by its own scheduler in this process, measured from outside."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from appliance.engine.decoder import WANTED_MAX, Row
from appliance.engine.lanes import OpenLane, open_lane, usable_lanes
from appliance.engine.protocol import GenerateRequest, Message, Sampling
from appliance.engine.served import ServedDecoder
from appliance.engine.settings import EngineSettings
from appliance.engine.tokens import Tokenizers
from models.store import Installed, Store
from tests.bench import loads

GREEDY = Sampling(temperature=0)
CHUNK = 64  # Tokens of one run when logits of all are wanted: they fit in the decoder's own buffer.


def open_package(store: Path, name: str) -> Installed:
    return Store(store).current(name)


def lanes_of(package: Installed, settings: EngineSettings) -> tuple[str, ...]:
    """Every lane of the package that this machine can run."""
    return usable_lanes(package.manifest, settings)


class Lane:
    """One lane of a package. `name` is as the package calls it."""

    def __init__(self, package: Installed, name: str, threads: int) -> None:
        self.name = name
        self._settings = EngineSettings(threads=threads, lane=name)
        self._served = ServedDecoder(package, self._settings, Tokenizers())
        self._package = package
        self._tokens = Tokenizers().open(package.folder / package.manifest.tokenizer)
        self._words = self._encode(loads.words()[:400_000])
        self._call = 0

    def perplexity(self) -> float:
        """As llama-perplexity computes it: windows apart, the second half of each scored."""
        ids, window, half = self._encode(loads.perplexity_text()), loads.WINDOW, loads.WINDOW // 2
        lane = self._open(window)
        assert self._settings.slots * WANTED_MAX >= CHUNK
        losses: list[float] = []
        for begin in range(0, len(ids) - window + 1, window):
            tokens = ids[begin : begin + window]
            for start in range(0, window, CHUNK):
                part = tokens[start : start + CHUNK]
                logits = lane.decoder.run([Row(0, part, start, len(part))]).astype(np.float64)
                for place in range(max(half - start, 0), min(CHUNK, window - 1 - start)):
                    scores = logits[place]
                    top = scores.max()
                    losses.append(float(np.log(np.exp(scores - top).sum()) + top - scores[tokens[start + place + 1]]))
        return float(np.exp(np.mean(losses)))

    def prefill(self, count: int) -> float:
        """Tokens of a prompt per second, in steps as the scheduler takes them."""
        scheduler, call = self._served.stepper, self._next()
        request = GenerateRequest("", 1, prompt=self._cut(count, call), sampling=GREEDY, owner=f"prefill {call}")
        generation = self._served.prepare(call, request)
        generation.prompt = generation.prompt[:count]
        start = time.perf_counter()
        scheduler.submit(generation)
        while scheduler.busy:
            scheduler.step()
        return count / (time.perf_counter() - start)

    def decode(self, streams: int, context: int = loads.PROMPT, answer: int = loads.ANSWER) -> float:
        """Tokens per second of all streams together, no guesses, while every one of them is being answered."""
        scheduler = self._served.stepper
        chunks = streams * (context // self._settings.prefill_tokens + 1)  # Steps until the last prompt is read.
        limit = answer + chunks
        generations = []
        for _ in range(streams):
            call = self._next()
            text = self._cut(context, call)
            request = GenerateRequest("", limit, prompt=text, sampling=GREEDY, owner=f"decode {call}")
            generation = self._served.prepare(call, request)
            generation.prompt, generation.guesses = generation.prompt[:context], False
            generation.stop_tokens = frozenset()
            generations.append(generation)
            scheduler.submit(generation)
        while not all(generation.made for generation in generations):
            scheduler.step()
        before = sum(len(generation.made) for generation in generations)
        start = time.perf_counter()
        while all(len(generation.made) < limit for generation in generations):
            scheduler.step()
        seconds = time.perf_counter() - start
        tokens = sum(len(generation.made) for generation in generations) - before
        for generation in generations:
            scheduler.cancel(generation.call)
        return tokens / seconds

    def grounded(self, guesses: bool) -> float:
        """Tokens per second of whole calls that quote a price list, nothing of the prompt known before."""
        scheduler = self._served.stepper
        tokens = 0
        seconds = 0.0
        for question in loads.QUESTIONS:
            call = self._next()
            messages = (
                Message("system", loads.INSTRUCTION),
                Message("user", f"{loads.price_list()}\n\n{question}"),
            )
            request = GenerateRequest(
                "", loads.GROUNDED_ANSWER, messages=messages, sampling=GREEDY, owner=f"grounded {call}"
            )
            generation = self._served.prepare(call, request)
            generation.guesses = guesses
            start = time.perf_counter()
            scheduler.submit(generation)
            while scheduler.busy:
                scheduler.step()
            seconds += time.perf_counter() - start
            tokens += len(generation.made)
        return tokens / seconds

    def first_token(self) -> tuple[float, float]:
        """Milliseconds to the first token of a cold prompt, and of another one that begins alike."""
        owner = f"prefix {self._next()}"
        text = self._cut(loads.PREFIX, self._next())
        cold = self._first(replace(GenerateRequest("", 1, prompt=f"{text} A", sampling=GREEDY), owner=owner))
        warm = self._first(replace(GenerateRequest("", 1, prompt=f"{text} B", sampling=GREEDY), owner=owner))
        return cold, warm

    def _first(self, request: GenerateRequest) -> float:
        scheduler = self._served.stepper
        start = time.perf_counter()
        scheduler.submit(self._served.prepare(self._next(), request))
        while scheduler.busy:
            scheduler.step()
        return 1e3 * (time.perf_counter() - start)

    def _open(self, capacity: int) -> OpenLane:
        return open_lane(self._package.folder, self._package.manifest, self.name, self._settings, capacity)

    def _next(self) -> int:
        self._call += 1
        return self._call

    def _cut(self, tokens: int, call: int) -> str:
        """Text of a little more than so many tokens, another one for every call."""
        begin = call * 97 % (len(self._words) - 2 * tokens)
        return self._tokens.decode(self._words[begin : begin + tokens + tokens // 8 + 16])

    def _encode(self, text: str) -> Sequence[int]:
        ids = self._tokens.encode(text, len(text))
        assert ids is not None
        return ids
