"""Engine: the whole contract between the box and whatever runs its models, on one screen.

Every implementation (the child process, a Serve handle, a fake in tests) keeps these promises:
a batch gives each input the answer it would get alone; a closed generation frees its slot within one step;
nothing is truncated: what does not fit is refused with `TooLong`.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class EngineError(Exception):
    """Base of everything an engine refuses. `field` names the request field at fault, if one is."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(EngineError):
    """No active package has this name, or it does not do what was asked of it."""


class InvalidRequest(EngineError):
    """A field holds something that the model cannot honour."""


class TooLong(InvalidRequest):
    """The input, or the input plus what may be generated, exceeds the model's context."""


class Overloaded(EngineError):
    """The bounded queue is full: try again later."""


class EngineUnavailable(EngineError):
    """The engine died or is starting: the request was lost and must not be billed."""


class EngineDied(EngineUnavailable):
    """It died of what was asked of it just now."""


@dataclass(frozen=True)
class ModelInfo:
    """An active package as the engine runs it. `digest` is the package's manifest digest (32 bytes)."""

    name: str
    digest: bytes
    family: Literal["decoder", "encoder"]
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    context_tokens: int
    lane: str
    provider: str


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k 0 means no limit. seed None draws one at random."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class GenerateRequest:
    """Exactly one of `messages` (chat template applied) and `prompt` (text as it is) is given."""

    model: str
    max_tokens: int | None  # None: all that the context has room for
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Started:
    """First event: the prompt was admitted and holds a slot."""

    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """Some text, whole characters only, never any part of a stop string. `tokens` (≥ 1) new tokens produced it."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Finished:
    """Last event. `completion_tokens` counts every generated token, the stop token included."""

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


GenerateEvent = Started | Delta | Finished


@dataclass(frozen=True)
class EmbedRequest:
    """`role` chooses the model's own prefix ("query: " / "passage: "); None embeds the text as it is."""

    model: str
    texts: tuple[str, ...]
    role: Literal["query", "passage"] | None = None


@dataclass(frozen=True)
class EmbedResult:
    """`vectors` float32 [n, dim], unit length; `tokens` per input."""

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class EngineHealth:
    """`set_aside` pairs each active package that does not serve with the reason, for the operator."""

    ready: bool
    pid: int | None
    restarts: int
    queued: int
    running: int
    slots: int
    set_aside: tuple[tuple[str, str], ...] = ()


class Engine(Protocol):
    async def models(self) -> tuple[ModelInfo, ...]: ...

    async def health(self) -> EngineHealth: ...

    async def embed(self, request: EmbedRequest) -> EmbedResult: ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent, None]:
        """Started, Delta…, Finished. Closing the generator early (`aclose`) cancels the generation."""
        ...
