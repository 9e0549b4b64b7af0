"""Our own manifest inside a package (`nukkad.json`): what a box must know to run the model, and nothing else."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError, model_validator

from models.errors import InvalidManifest
from models.files import open_regular, read_small

SCHEMA = 1
MANIFEST_FILE = "nukkad.json"
MANIFEST_BYTES_MAX = 1 << 20
FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

FileName = Annotated[str, StringConstraints(pattern=FILE_NAME)]
PackageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
LaneName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}$")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Task = Literal["chat", "completion", "embedding", "search"]
ENCODER_TASKS = frozenset({"embedding", "search"})
Size = Annotated[int, Field(ge=1, le=1 << 24)]
TokenId = Annotated[int, Field(ge=0, le=1 << 24)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Geometry(_Frozen):
    """Sizes of the network. `kv_heads` equals `heads` where keys and values are not shared."""

    layers: Size
    hidden: Size
    heads: Size
    kv_heads: Size
    head_dim: Size
    vocab: Size

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class Lane(_Frozen):
    """One lowering of the weights. `graph` and `weights` are file names in the package.

    `operators`: whose the graph is written with, ONNX Runtime's or our own (`kernels`); a decoder's inputs and cache
    differ with them (`quantize/graphs/decoder.py` and `kernel_decoder.py`).
    """

    graph: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,122}\.onnx$")]
    weights: tuple[FileName, ...] = Field(max_length=32)
    operators: Literal["onnx", "nukkad"] = "onnx"


class Embedding(_Frozen):
    """How an encoder's output becomes a vector: mean pooling and unit length happen inside the graph."""

    dim: Size
    query_prefix: str = Field(max_length=1000)
    passage_prefix: str = Field(max_length=1000)


class Chat(_Frozen):
    """Jinja chat template (rendered sandboxed in the engine) and the tokens that end an answer."""

    template: str = Field(min_length=1, max_length=65_536)
    stop_token_ids: tuple[TokenId, ...] = Field(min_length=1, max_length=32)


class SelfTest(_Frozen):
    """A known input and its answer on the default lane, checked by the engine before the model serves.

    Encoder: cosine between the vector of `text` and `vector` must be ≥ 0.98. Decoder: greedy tokens after `text` must
    equal `tokens` in at least the first place.
    """

    text: str = Field(min_length=1, max_length=10_000)
    vector: tuple[FiniteFloat, ...] = ()
    tokens: tuple[TokenId, ...] = ()


class Manifest(_Frozen):
    schema_version: Literal[1] = Field(default=1)
    name: PackageName
    version: Version
    family: Literal["decoder", "encoder"]
    tasks: tuple[Task, ...] = Field(min_length=1, max_length=8)
    languages: tuple[Language, ...] = Field(max_length=1000)
    licence: Line
    source: Line
    context_tokens: Size
    geometry: Geometry
    lanes: dict[LaneName, Lane] = Field(min_length=1, max_length=8)
    default_lane: LaneName
    tokenizer: FileName  # a Hugging Face tokenizer.json
    bos_token_id: TokenId | None = None
    chat: Chat | None = None
    embedding: Embedding | None = None
    self_test: tuple[SelfTest, ...] = Field(min_length=1, max_length=16)
    card: FileName = "card.json"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_lane not in self.lanes:
            raise ValueError(f"default_lane: no lane {self.default_lane!r}; use one of {', '.join(sorted(self.lanes))}")
        if self.family == "encoder":
            self._check_encoder()
        else:
            self._check_decoder()
        graphs = [lane.graph for lane in self.lanes.values()]
        weights = {name for lane in self.lanes.values() for name in lane.weights}  # lanes may share a weights file
        names = [MANIFEST_FILE, self.tokenizer, self.card, *graphs, *weights]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named for two purposes; give each file a name of its own")
        return self

    def _check_encoder(self) -> None:
        if "embedding" not in self.tasks or not ENCODER_TASKS.issuperset(self.tasks):
            raise ValueError('tasks: an encoder has the task "embedding", and "search" if it was tuned for that')
        if self.embedding is None:
            raise ValueError("embedding: an encoder needs it; give dim and both prefixes (empty if it has none)")
        for index, test in enumerate(self.self_test):
            if len(test.vector) != self.embedding.dim or test.tokens:
                raise ValueError(f"self_test.{index}: give a vector of {self.embedding.dim} numbers and no tokens")

    def _check_decoder(self) -> None:
        if ENCODER_TASKS.intersection(self.tasks) or self.embedding is not None:
            raise ValueError("tasks: a decoder offers chat and completion; leave out embedding and search")
        if ("chat" in self.tasks) != (self.chat is not None):
            raise ValueError('chat: give a template exactly when tasks has "chat"')
        for index, test in enumerate(self.self_test):
            if not test.tokens or test.vector:
                raise ValueError(f"self_test.{index}: give the greedy tokens and no vector")

    @property
    def weight_files(self) -> frozenset[str]:
        """Graphs and weights of every lane."""
        return frozenset(name for lane in self.lanes.values() for name in (lane.graph, *lane.weights))

    @property
    def setting_files(self) -> frozenset[str]:
        """This manifest, the tokenizer and the quality card."""
        return frozenset({MANIFEST_FILE, self.tokenizer, self.card})


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, two spaces, UTF-8, one newline at the end. Equal manifests give equal bytes."""
    document = manifest.model_dump(mode="json")
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def list_faults(error: ValidationError) -> str:
    """Every field at fault and why, in one line."""
    return "; ".join(
        ": ".join(part for part in (".".join(str(step) for step in fault["loc"]), fault["msg"]) if part)
        for fault in error.errors(include_url=False, include_input=False)
    )


def decode_manifest(data: bytes) -> Manifest:
    """Raises InvalidManifest listing every field at fault and why."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidManifest(f"{MANIFEST_FILE}: {list_faults(error)}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of package files."""
    with open_regular(folder / MANIFEST_FILE) as file:
        return decode_manifest(read_small(file, MANIFEST_FILE, MANIFEST_BYTES_MAX))


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Writes `nukkad.json` into a folder and returns its path."""
    path = folder / MANIFEST_FILE
    path.write_bytes(encode_manifest(manifest))
    return path
