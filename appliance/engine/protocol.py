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
    cpu_nodes: int = 0  # of its graph, where it runs on another provider that left these to the processor


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model asks for. `arguments` is JSON text that fits the tool's parameters."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Tool:
    """A tool that the model may ask for. `parameters` is a JSON Schema as JSON text."""

    name: str
    description: str
    parameters: str


@dataclass(frozen=True)
class Message:
    """`tool_calls` only with the role assistant; `tool_call_id` (which call this is the result of) only with tool."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k 0 means no limit, min_p 0 none. seed None draws one at random.

    Penalties and `logit_bias` (token id, what is added to its logit) change logits before anything else, as OpenAI
    defines them.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Grammar:
    """What an answer must be from its first to its last character. What cannot be compiled is refused.

    json_schema: a JSON Schema as JSON text ({} is any JSON value); regex: in Rust's syntax; lark: llguidance's Lark.
    """

    kind: Literal["json_schema", "regex", "lark"]
    text: str


@dataclass(frozen=True)
class GenerateRequest:
    """Exactly one of `messages` (chat template applied) and `prompt` (text as it is) is given.

    `logprobs`: None for none, else how many alternatives (0 to 20) go with every token. `tools` go with messages only;
    "required" makes the answer nothing but calls, "none" shows the tools and forbids calls. `owner` is whose call it
    is: the calls of different owners take turns.
    """

    model: str
    max_tokens: int | None  # None: all that the context has room for
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    logprobs: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: Literal["none", "auto", "required"] = "auto"
    parallel_tool_calls: bool = True
    owner: str = ""


@dataclass(frozen=True)
class Started:
    """First event: the prompt was admitted and holds a slot. `cached_tokens` of it had been computed before."""

    prompt_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class TokenLogprob:
    """A token's own bytes (perhaps a part of a character) and the natural logarithm of its probability.

    The probability is what the model computed, before anything that a request asks for changes it.
    """

    data: bytes
    logprob: float


@dataclass(frozen=True)
class ChosenToken:
    """A generated token and the most likely ones in its place, most likely first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Delta:
    """Some text, whole characters only, never any part of a stop string. `tokens` (≥ 1) new tokens produced it."""

    text: str
    tokens: int
    logprobs: tuple[ChosenToken, ...] = ()  # one per token, if asked for


@dataclass(frozen=True)
class Called:
    """The model asks for a tool. `tokens` (≥ 1) new tokens produced the call."""

    call: ToolCall
    tokens: int


@dataclass(frozen=True)
class Finished:
    """Last event. `completion_tokens` counts every generated token, the stop token included."""

    reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int


GenerateEvent = Started | Delta | Called | Finished


@dataclass(frozen=True)
class EmbedRequest:
    """`role` chooses the model's own prefix ("query: " / "passage: "); None embeds the text as it is."""

    model: str
    texts: tuple[str, ...]
    role: Literal["query", "passage"] | None = None
    owner: str = ""  # whose call it is: the calls of different owners take turns


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
        """Started, then Delta and Called, then Finished. Closing it early (`aclose`) cancels the generation."""
        ...
