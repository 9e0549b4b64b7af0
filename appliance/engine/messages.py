"""Every message between the box and the engine's child. A frame to the child holds one, a frame back a list."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from appliance.engine import protocol
from appliance.engine.protocol import ChosenToken, EmbedRequest, EmbedResult, GenerateRequest, ModelInfo, ToolCall
from appliance.engine.settings import EngineSettings
from appliance.engine.wire import WireError

# To the child. `call` numbers a call, so that many share the socket.


@dataclass(frozen=True)
class Configure:
    """First message. `quarantined` packages (digests) crashed a child while loading and are left out."""

    store: str
    settings: EngineSettings
    quarantined: tuple[bytes, ...]
    kind: Literal["configure"] = "configure"


@dataclass(frozen=True)
class Generate:
    call: int
    request: GenerateRequest
    kind: Literal["generate"] = "generate"


@dataclass(frozen=True)
class Embed:
    call: int
    request: EmbedRequest
    kind: Literal["embed"] = "embed"


@dataclass(frozen=True)
class Cancel:
    call: int
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True)
class Reload:
    """Load what has become active in the store, drop what has not stayed so. Answered by `Loaded`."""

    kind: Literal["reload"] = "reload"


ToChild = Configure | Generate | Embed | Cancel | Reload

# From the child.


@dataclass(frozen=True)
class Loading:
    """Sent before a package is touched: if the child dies before the next message of its kind, this package did it."""

    name: str
    digest: bytes
    kind: Literal["loading"] = "loading"


@dataclass(frozen=True)
class Loaded:
    """Everything active that can serve does. `set_aside` pairs the others with the reason."""

    models: tuple[ModelInfo, ...]
    set_aside: tuple[tuple[str, str], ...]
    kind: Literal["loaded"] = "loaded"


@dataclass(frozen=True)
class Beat:
    """No step is stuck."""

    kind: Literal["beat"] = "beat"


@dataclass(frozen=True)
class Started:
    call: int
    prompt_tokens: int
    cached_tokens: int = 0
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class Delta:
    call: int
    text: str
    tokens: int
    logprobs: tuple[ChosenToken, ...] = ()
    kind: Literal["delta"] = "delta"


@dataclass(frozen=True)
class Called:
    call: int
    tool_call: ToolCall
    tokens: int
    kind: Literal["called"] = "called"


@dataclass(frozen=True)
class Finished:
    call: int
    reason: Literal["stop", "length", "tool_calls"]
    prompt_tokens: int
    completion_tokens: int
    kind: Literal["finished"] = "finished"


@dataclass(frozen=True)
class Vectors:
    """`data`: little-endian float32, row after row, one row per count in `tokens`."""

    call: int
    data: bytes
    tokens: tuple[int, ...]
    kind: Literal["vectors"] = "vectors"


@dataclass(frozen=True)
class Refused:
    call: int
    error: Literal["UnknownModel", "InvalidRequest", "TooLong", "Overloaded", "EngineUnavailable"]
    message: str
    field: str | None
    kind: Literal["refused"] = "refused"


FromChild = Loading | Loaded | Beat | Started | Delta | Called | Finished | Vectors | Refused

Outcome = protocol.GenerateEvent | EmbedResult | protocol.EngineError

_TO_CHILD: TypeAdapter[ToChild] = TypeAdapter(Annotated[ToChild, Field(discriminator="kind")])
_FROM_CHILD: TypeAdapter[list[FromChild]] = TypeAdapter(list[Annotated[FromChild, Field(discriminator="kind")]])


def configure(store: Path, settings: EngineSettings, quarantined: tuple[bytes, ...]) -> Configure:
    return Configure(str(store.absolute()), settings, quarantined)


def dump(message: ToChild | FromChild) -> dict[str, Any]:
    return asdict(message)


def parse_to_child(value: Any) -> ToChild:
    """Raises WireError, never showing what the message held."""
    try:
        return _TO_CHILD.validate_python(value)
    except ValidationError as error:
        raise WireError(_describe(error)) from None


def parse_from_child(value: Any) -> list[FromChild]:
    try:
        return _FROM_CHILD.validate_python(value)
    except ValidationError as error:
        raise WireError(_describe(error)) from None


def from_outcome(call: int, outcome: Outcome) -> FromChild:
    match outcome:
        case protocol.Started():
            return Started(call, outcome.prompt_tokens, outcome.cached_tokens)
        case protocol.Delta():
            return Delta(call, outcome.text, outcome.tokens, outcome.logprobs)
        case protocol.Called():
            return Called(call, outcome.call, outcome.tokens)
        case protocol.Finished():
            return Finished(call, outcome.reason, outcome.prompt_tokens, outcome.completion_tokens)
        case EmbedResult():
            return Vectors(call, outcome.vectors.astype("<f4").tobytes(), outcome.tokens)
        case _:
            error: Any = type(outcome).__name__
            return Refused(call, error, str(outcome), outcome.field)


def to_outcome(message: Started | Delta | Called | Finished | Vectors | Refused) -> Outcome:
    """Raises WireError if vectors are not a whole number of rows."""
    match message:
        case Started():
            return protocol.Started(message.prompt_tokens, message.cached_tokens)
        case Delta():
            return protocol.Delta(message.text, message.tokens, message.logprobs)
        case Called():
            return protocol.Called(message.tool_call, message.tokens)
        case Finished():
            return protocol.Finished(message.reason, message.prompt_tokens, message.completion_tokens)
        case Vectors():
            rows = len(message.tokens)
            if not rows or len(message.data) % (4 * rows):
                raise WireError("vectors are not a whole number of rows")
            vectors = np.frombuffer(message.data, dtype="<f4").astype(np.float32).reshape(rows, -1)
            return EmbedResult(vectors, message.tokens)
        case Refused():
            error: type[protocol.EngineError] = getattr(protocol, message.error)
            return error(message.message, message.field)


def _describe(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    return "unknown message: " + "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['type']}" for fault in faults)
