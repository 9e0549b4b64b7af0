"""A deterministic `Engine` for the unit tests of other rooms: chat echoes words, vectors are hashed words.

A word with the spaces after it is one token. A generation answers with the words of the last message (or of the prompt)
and then one stop token. Every promise of the protocol holds; the contract suite in tests/engine checks it.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import (
    Delta,
    EmbedRequest,
    EmbedResult,
    EngineError,
    EngineHealth,
    EngineUnavailable,
    Finished,
    GenerateEvent,
    GenerateRequest,
    ModelInfo,
    Overloaded,
    Started,
    TooLong,
    UnknownModel,
)
from appliance.engine.requests import check_embed, check_generate

CHAT_MODEL = "fake-chat"
EMBED_MODEL = "fake-embed"
PREFIXES = {"query": "query: ", "passage": "passage: ", None: ""}


class FakeEngine:
    """Knobs for tests, all optional and changeable at any time:

    `failure`       raised by every call while it is set.
    `break_after`   a stream raises `EngineUnavailable` after this many deltas.
    `gate`          every delta waits until the event is set: holds streams open.
    `cancelled`     how many generations were closed before they finished.
    """

    def __init__(self, slots: int = 4, queue: int = 4, context_tokens: int = 256, dim: int = 16) -> None:
        self.slots = slots
        self.queue = queue
        self.context_tokens = context_tokens
        self.dim = dim
        self.failure: EngineError | None = None
        self.break_after: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.restarts = 0
        self._free = asyncio.Semaphore(slots)
        self._admitted = 0
        self._running = 0

    async def models(self) -> tuple[ModelInfo, ...]:
        languages = ("en", "hi", "ta")
        return (
            ModelInfo(
                CHAT_MODEL,
                b"\x01" * 32,
                "decoder",
                ("chat", "completion"),
                languages,
                self.context_tokens,
                "q8",
                "fake",
            ),
            ModelInfo(
                EMBED_MODEL, b"\x02" * 32, "encoder", ("embedding",), languages, self.context_tokens, "int8", "fake"
            ),
        )

    async def health(self) -> EngineHealth:
        ready = not isinstance(self.failure, EngineUnavailable)
        return EngineHealth(ready, 1, self.restarts, self._admitted - self._running, self._running, self.slots)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        check_embed(request)
        self._refuse(request.model, EMBED_MODEL)
        texts = [PREFIXES[request.role] + text for text in request.texts]
        tokens = tuple(len(_words(text)) + 2 for text in texts)
        for place, count in enumerate(tokens):
            if count > self.context_tokens:
                raise TooLong(f"{count} tokens do not fit in {self.context_tokens}", f"texts[{place}]")
        await asyncio.sleep(0)
        return EmbedResult(np.stack([_vector(text, self.dim) for text in texts]), tokens)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        check_generate(request)
        self._refuse(request.model, CHAT_MODEL)
        prompt_tokens, words, field = _prompt(request)
        room = self.context_tokens - prompt_tokens
        if room < 1:
            raise TooLong(f"{prompt_tokens} tokens do not fit in {self.context_tokens}", field)
        if request.max_tokens is not None and request.max_tokens > room:
            raise TooLong(f"at most {room} tokens can follow this prompt", "max_tokens")
        if self._admitted >= self.slots + self.queue:
            raise Overloaded("the queue is full: try again later")
        limit = room if request.max_tokens is None else request.max_tokens
        self._admitted += 1
        finished = False
        try:
            async with self._free:
                self._running += 1
                try:
                    await asyncio.sleep(0)
                    yield Started(prompt_tokens)
                    deltas, completion_tokens, at_limit = _answer(words, request.stop, limit)
                    for sent, delta in enumerate(deltas):
                        await asyncio.sleep(0)  # Others get a turn between two tokens, as they do in truth.
                        await self.gate.wait()
                        if self.break_after is not None and sent >= self.break_after:
                            raise EngineUnavailable("the engine died: the request was lost")
                        yield delta
                    finished = True
                    yield Finished("length" if at_limit else "stop", prompt_tokens, completion_tokens)
                finally:
                    self._running -= 1
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += not finished
            raise
        finally:
            self._admitted -= 1

    def _refuse(self, asked: str, offered: str) -> None:
        if self.failure is not None:
            raise self.failure
        if asked != offered:
            raise UnknownModel(f"no active package called {asked!r} does this", "model")


def _prompt(request: GenerateRequest) -> tuple[int, list[str], str]:
    """Tokens in, the words to echo, and the field that holds them."""
    if request.messages is not None:
        contents = [message.content for message in request.messages]
        return sum(len(_words(content)) + 1 for content in contents), _words(contents[-1]), "messages"
    assert request.prompt is not None
    words = _words(request.prompt)
    return len(words) + 1, words, "prompt"


def _answer(words: list[str], stops: tuple[str, ...], limit: int) -> tuple[list[Delta], int, bool]:
    """Deltas, tokens generated, and whether the limit ended the answer."""
    kept = words[:limit]
    text = "".join(kept)
    cuts = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    if not cuts:
        at_limit = len(words) >= limit
        return [Delta(word, 1) for word in kept], len(kept) + (not at_limit), at_limit
    deltas: list[Delta] = []
    left = min(cuts)
    for word in kept:
        if left <= 0:
            break
        deltas.append(Delta(word[:left], 1))
        left -= len(word)
    return deltas, len(deltas) + 1, False


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*|\s+", text)


def _vector(text: str, dim: int) -> NDArray[np.float32]:
    """Sum of one hashed direction per word: texts that share words point the same way."""
    total = np.zeros(dim, dtype=np.float32)
    for word in text.split():
        seed = int.from_bytes(hashlib.sha256(word.strip("?.,!।").casefold().encode()).digest()[:8], "big")
        total += np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return total / max(float(np.linalg.norm(total)), 1e-12)
