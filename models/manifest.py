"""Our own manifest inside a package (`nukkad.json`): what a box must know to run the model, and nothing else."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
MANIFEST_FILE = "nukkad.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Geometry(_Frozen):
    """Sizes of the network. `kv_heads` equals `heads` where keys and values are not shared."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


class Lane(_Frozen):
    """One lowering of the weights. `graph` and `weights` are file names in the package."""

    graph: str
    weights: tuple[str, ...]


class Embedding(_Frozen):
    """How an encoder's output becomes a vector: mean pooling and unit length happen inside the graph."""

    dim: int
    query_prefix: str
    passage_prefix: str


class Chat(_Frozen):
    """Jinja chat template (rendered sandboxed in the engine) and the tokens that end an answer."""

    template: str
    stop_token_ids: tuple[int, ...]


class SelfTest(_Frozen):
    """A known input and its answer on the default lane, checked by the engine before the model serves.

    Encoder: cosine between the vector of `text` and `vector` must be ≥ 0.98. Decoder: greedy tokens after `text` must equal
    `tokens` in at least the first place.
    """

    text: str
    vector: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()


class Manifest(_Frozen):
    schema_version: Literal[1] = Field(default=1)
    name: str  # [a-z0-9.-]+
    version: str
    family: Literal["decoder", "encoder"]
    tasks: tuple[Literal["chat", "completion", "embedding"], ...]
    languages: tuple[str, ...]
    licence: str
    source: str
    context_tokens: int
    geometry: Geometry
    lanes: dict[str, Lane]
    default_lane: str
    tokenizer: str  # file name of a Hugging Face tokenizer.json
    bos_token_id: int | None = None
    rope_theta: float | None = None
    chat: Chat | None = None
    embedding: Embedding | None = None
    self_test: tuple[SelfTest, ...]
    card: str = "card.json"
