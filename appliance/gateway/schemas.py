"""What the OpenAI routes take. A field stands here only if the box honours it; everything else is refused by name.

A parameter that the box does not offer is taken in the one value that means "not used" (n=1, logprobs=false …), because
many clients always send it, and then nothing is ignored.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.requests import Request

from appliance.gateway.errors import BadRequest, NotJson
from appliance.text.marks import Marked

TEXTS_MAX = 2048
MESSAGES_MAX = 1024
STOPS_MAX = 4
PARTS_MAX = 64
FAULTS_MAX = 1000  # of one body: more are not worth the memory it takes to list them
SHOWN_MAX = 200  # characters of an error message taken from validation

Name = Annotated[str, Field(min_length=1, max_length=128)]
Content = Annotated[str, Marked]
Text = Annotated[str, Field(min_length=1), Marked]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Stops = Annotated[list[Stop], Field(min_length=1, max_length=STOPS_MAX)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _refuse_true(value: bool) -> bool:
    if value:
        raise ValueError("not supported by this box: leave it out")
    return value


Off = Annotated[bool, AfterValidator(_refuse_true)]  # a Literal would take 0 for False
One = Annotated[int, Field(ge=1, le=1)]  # and true for 1
Zero = Annotated[float, Field(ge=0, le=0)]


class Strict(BaseModel):
    """No conversion of types, no unknown field, no number that is none."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextPart(Strict):
    type: Literal["text"]
    text: Content


class ChatMessage(Strict):
    role: Literal["system", "user", "assistant"]
    content: Content | Annotated[list[TextPart], Field(max_length=PARTS_MAX)]

    @property
    def text(self) -> str:
        """Parts stand one after the other, with nothing between them."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Strict):
    include_usage: bool = False


class TextFormat(Strict):
    type: Literal["text"]


class GenerationRequest(Strict):
    """What chat and plain completions share."""

    model: Name
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=512, description="Taken and not kept: the key is what is billed.")
    # Offered in their neutral value only.
    n: One | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "GenerationRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream=true")
        return self


class ChatRequest(GenerationRequest):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Tokens | None = None
    logprobs: Off | None = None
    store: Off | None = None
    response_format: TextFormat | None = None

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_completion_tokens: give it or max_tokens, not both")
        return self


class CompletionRequest(GenerationRequest):
    prompt: Text
    echo: Off | None = None
    best_of: One | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        return _refuse_tokens(value)


class EmbeddingRequest(Strict):
    model: Name
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=TEXTS_MAX)]
    encoding_format: Literal["float", "base64"] = "float"
    input_type: Literal["query", "passage"] | None = Field(
        default=None, description="Beyond OpenAI: search models put another prefix before a question than a passage."
    )
    user: str | None = Field(default=None, max_length=512, description="Taken and not kept: the key is what is billed.")

    @field_validator("input", mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        return _refuse_tokens(value)

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


def _refuse_tokens(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError("send text: token ids mean something else in every tokenizer, so they are not taken")
    return value


Schema = TypeVar("Schema", bound=BaseModel)

HINTS = {
    "extra_forbidden": "not supported by this box: leave it out",
    "missing": "missing: this field is needed",
}


async def read(request: Request, schema: type[Schema]) -> Schema:
    """The body of a request, checked. Raises NotJson, BadRequest naming the field, and what the limits raise."""
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if sent != "application/json":
        raise NotJson("send the body as JSON with the header Content-Type: application/json", "Content-Type")
    return parse(await request.body(), schema)


def parse(data: bytes, schema: type[Schema]) -> Schema:
    """Raises BadRequest naming the field at fault and the fix, without repeating what it held."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        if error.error_count() > FAULTS_MAX:
            raise BadRequest(f"the body has {error.error_count()} faults: docs/api.md tells what is taken") from None
        found = error.errors(include_url=False, include_input=False, include_context=False)
    field = _field(found[0]["loc"])
    if found[0]["type"] == "json_invalid":
        raise BadRequest("the body is not valid JSON in UTF-8", code="invalid_json")
    # A union reports a fault per branch: the branch that fits furthest is the one that was meant.
    branches = [fault for fault in found if _field(fault["loc"]).startswith(field)]
    depth = max(len(fault["loc"]) for fault in branches)
    field = next(_field(fault["loc"]) for fault in branches if len(fault["loc"]) == depth)
    meant = [fault for fault in branches if _field(fault["loc"]) == field]
    message = " or ".join(dict.fromkeys(HINTS.get(fault["type"]) or _plain(fault["msg"]) for fault in meant))
    if not field:  # A check of several fields says itself which one it is about.
        field, _, message = message.rpartition(": ")
    raise BadRequest(f"{field}: {message}"[:SHOWN_MAX] if field else message[:SHOWN_MAX], field or None)


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def documented(schema: type[BaseModel]) -> dict[str, Any]:
    """The request body for the OpenAPI document: routes read it themselves, so that refusals have the one shape."""
    shape = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(shape)}}}}


def _inlined(shape: dict[str, Any]) -> dict[str, Any]:
    """Definitions put where they are used: a route's own schema has no place for them in an OpenAPI document."""
    definitions = shape.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return walk(definitions[node["$ref"].rsplit("/", 1)[-1]])
        return {key: walk(value) for key, value in node.items()}

    return dict(walk(shape))


def _field(places: tuple[int | str, ...]) -> str:
    """messages[0].content for ("messages", 0, "content"); what pydantic calls the branches of a union is left out."""
    name = ""
    for place in places:
        if isinstance(place, int):
            name += f"[{place}]"
        elif (place.isidentifier() and place not in {"str", "int", "float", "bool"}) or not name:
            name += f".{place}" if name else place
    return name
