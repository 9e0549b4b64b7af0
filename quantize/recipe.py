"""A recipe: everything that decides a package's bytes, in one TOML file. Same recipe, same package."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from models.manifest import FILE_NAME, Embedding, Language, Line, PackageName, Task, Version, list_faults
from quantize.sources.wheel import Wheel

Family = Literal["decoder", "encoder"]
LaneName = Literal["k4", "k8", "q8", "int8", "q4"]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

CATALOGUE = Path(__file__).parent.parent / "models" / "catalogue"


class RecipeError(Exception):
    """A recipe cannot be used. The message names the field at fault."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WheelFile(_Frozen):
    """A file inside a wheel of the package index; `size` (bytes) and `sha256` are the wheel's."""

    wheel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9][A-Za-z0-9.!+]*$")]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=1 << 36)]
    member: Line
    python: Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")] | None = None
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")] | None = None

    def pinned(self) -> Wheel:
        return Wheel(self.wheel, self.version, self.sha256, self.size, self.python, self.platform)

    def __str__(self) -> str:
        return f"{self.member} of {self.wheel} {self.version}"


class LocalFile(_Frozen):
    """A file on this machine; a relative path starts at the recipe's folder. Without `sha256` any file is taken."""

    path: Line
    sha256: Sha256 | None = None

    def __str__(self) -> str:
        return self.path


class JoinedFile(_Frozen):
    """A file that several wheels hold in parts, in their order; `size` (bytes) and `sha256` are the whole file's."""

    name: Annotated[str, StringConstraints(pattern=FILE_NAME)]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=1 << 36)]
    parts: tuple[WheelFile, ...] = Field(min_length=2, max_length=64)

    def __str__(self) -> str:
        return f"{self.name} (joined)"


AnyFile = WheelFile | LocalFile | JoinedFile


class GgufSource(_Frozen):
    format: Literal["gguf"]
    weights: AnyFile


class E5sSource(_Frozen):
    format: Literal["e5s"]
    weights: AnyFile
    tokenizer: AnyFile


class FolderSource(_Frozen):
    """A folder as Hugging Face lays it out; a relative path starts at the recipe's folder."""

    format: Literal["folder"]
    path: Line


class LaneRule(_Frozen):
    """What a lane must reach to be packaged; with `shipped = false` it is only measured, for the card.

    agreement: share of places where the lane's most likely next token is full precision's. perplexity rise: 0.02 is
    2 %. Both are those of the recipe's language that loses most. cosine: the least over the texts of all languages.
    """

    shipped: bool = True
    agreement_min: Share | None = None
    perplexity_rise_max: Annotated[float, Field(ge=0, le=10)] | None = None
    cosine_min: Share | None = None


class ChatRule(_Frozen):
    """Tokens, by name, that end an answer. The template comes from the source."""

    stop_tokens: tuple[Line, ...] = Field(min_length=1)


class Recipe(_Frozen):
    name: PackageName
    version: Version
    family: Family
    tasks: tuple[Task, ...]
    languages: tuple[Language, ...] = Field(min_length=1)
    licence: Line
    copyright: Line
    context_tokens: Annotated[int, Field(ge=1)]
    not_good_at: tuple[Line, ...]
    self_test: tuple[Line, ...] = Field(min_length=1)
    source: Annotated[GgufSource | E5sSource | FolderSource, Field(discriminator="format")]
    adapter: LocalFile | None = None  # a low-rank adapter, merged into the source's weights
    default_lane: LaneName
    lanes: dict[LaneName, LaneRule] = Field(min_length=1)
    prepend_bos: bool = False
    chat: ChatRule | None = None
    embedding: Embedding | None = None
    home: Path = Field(default=Path(), exclude=True)  # where relative paths start; set by read_recipe

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_lane not in self.lanes or not self.lanes[self.default_lane].shipped:
            raise ValueError(f"default_lane: lanes.{self.default_lane} must be there and shipped")
        if self.family == "encoder" and (own := sorted({"k4", "k8"} & self.lanes.keys())):
            raise ValueError(f"lanes.{own[0]}: our own operators are for decoders; use int8 or q8")
        needed = ("cosine_min",) if self.family == "encoder" else ("agreement_min", "perplexity_rise_max")
        for name, rule in self.lanes.items():
            if given := sorted(rule.model_fields_set - {"shipped", *needed}):
                raise ValueError(f"lanes.{name}.{given[0]}: has no meaning for an {self.family}".replace("an d", "a d"))
            for field in needed:
                if rule.shipped and getattr(rule, field) is None:
                    raise ValueError(f"lanes.{name}.{field}: a shipped lane of this family needs it")
        if (self.family == "encoder") != (self.embedding is not None):
            raise ValueError("embedding: give it for an encoder and only for one")
        if ("chat" in self.tasks) != (self.chat is not None):
            raise ValueError('chat: give it exactly when tasks has "chat"')
        if self.prepend_bos and self.family == "encoder":
            raise ValueError("prepend_bos: has no meaning for an encoder, whose tokenizer frames a text by itself")
        return self

    @property
    def shipped(self) -> tuple[LaneName, ...]:
        return tuple(name for name, rule in self.lanes.items() if rule.shipped)


def read_recipe(path: Path) -> Recipe:
    """Raises RecipeError listing every field at fault."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    try:
        # Through JSON, because strict validation takes lists for tuples only there. TOML's dates have no place here.
        recipe = Recipe.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise RecipeError(f"{path}: {list_faults(error)}") from None
    return recipe.model_copy(update={"home": path.parent.resolve()})


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path (it ends in .toml) or by its name in the catalogue."""
    if name.endswith(".toml"):
        return Path(name)
    path = CATALOGUE / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(entry.stem for entry in CATALOGUE.glob("*.toml")))
        raise RecipeError(f"no recipe named {name!r}; the catalogue has {known} (or give the path of a .toml file)")
    return path
