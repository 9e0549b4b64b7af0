import re
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import BaseModel

from models.manifest import Embedding
from quantize.recipe import (
    CATALOGUE,
    ChatRule,
    E5sSource,
    FolderSource,
    GgufSource,
    JoinedFile,
    LaneRule,
    LocalFile,
    Recipe,
    RecipeError,
    WheelFile,
    find_recipe,
    read_recipe,
)
from tests.quantize.tiny import DECODER_RECIPE, ENCODER_RECIPE


def read(tmp_path: Path, text: str, *changes: tuple[str, str]) -> None:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    read_recipe(tmp_path / "r.toml")


def test_every_recipe_of_the_catalogue_reads_and_is_named_after_its_file() -> None:
    paths = sorted(CATALOGUE.glob("*.toml"))
    assert {path.stem for path in paths} >= {"multilingual-e5-small", "smollm2-135m-instruct"}
    for path in paths:
        recipe = read_recipe(path)
        assert recipe.name == path.stem
        assert isinstance(recipe.source, GgufSource | E5sSource)
        assert isinstance(recipe.source.weights, WheelFile | JoinedFile)
        if recipe.adapter is not None:
            data = (recipe.home / recipe.adapter.path).read_bytes()
            assert recipe.adapter.sha256 == sha256(data).hexdigest(), "sha256sum says what the recipe must say"


PLACES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("recipe", Recipe),
    ("source, gguf", GgufSource),
    ("source, e5s", E5sSource),
    ("source, folder", FolderSource),
    ("file in a wheel", WheelFile),
    ("file in parts", JoinedFile),
    ("file of your own", LocalFile),
    ("lane", LaneRule),
    ("chat", ChatRule),
    ("embedding", Embedding),
)


def test_every_field_is_documented_as_it_is_and_no_other() -> None:
    shown = {True: "`true`", False: "`false`", None: "none"}
    there = [
        (where, name, "needed" if field.is_required() else shown[field.default])
        for where, model in PLACES
        for name, field in model.model_fields.items()
        if not field.exclude
    ]
    page = (CATALOGUE.parent.parent / "docs" / "packages.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([a-z0-9, ]+) \| `(\w+)` \| (.+?) \| .+ \|$", page, re.MULTILINE) == there


def test_relative_paths_start_where_the_recipe_lies(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(DECODER_RECIPE)
    recipe = read_recipe(tmp_path / "r.toml")
    assert recipe.home == tmp_path
    assert recipe.shipped == ("q8", "int8")


@pytest.mark.parametrize(
    ("text", "old", "new", "field"),
    [
        (DECODER_RECIPE, 'version = "1"', "version = 1", "version"),
        (DECODER_RECIPE, 'name = "tiny-decoder"', 'name = "Tiny Decoder"', "name"),
        (DECODER_RECIPE, 'family = "decoder"', 'family = "oracle"', "family"),
        (DECODER_RECIPE, 'format = "folder"', 'format = "pickle"', "source"),
        (DECODER_RECIPE, 'path = "weights"', 'path = "weights", trust_remote_code = true', "trust_remote_code"),
        (DECODER_RECIPE, 'default_lane = "q8"', 'default_lane = "q4"', "default_lane"),
        (DECODER_RECIPE, "perplexity_rise_max = 1.0", "", r"lanes\.q8\.perplexity_rise_max"),
        (DECODER_RECIPE, "agreement_min = 0.5", "agreement_min = 1.5", r"lanes\.q8\.agreement_min"),
        (DECODER_RECIPE, "agreement_min = 0.5", "agreement_min = 0.5\ncosine_min = 0.9", r"lanes\.q8\.cosine_min"),
        (DECODER_RECIPE, "[lanes.q4]", "[lanes.q2]", r"lanes\.q2"),
        (DECODER_RECIPE, 'chat = { stop_tokens = ["<end>"] }', "", "chat"),
        (ENCODER_RECIPE, "cosine_min = 0.95", "", r"lanes\.int8\.cosine_min"),
        (ENCODER_RECIPE, 'version = "1"', 'version = "1"\nprepend_bos = true', "prepend_bos"),
        (ENCODER_RECIPE, 'languages = ["ta"]', 'languages = ["Tamil"]', "languages"),
        (ENCODER_RECIPE, 'not_good_at = ["everything: its weights are random"]', "", "not_good_at"),
    ],
)
def test_a_bad_field_is_named(text: str, old: str, new: str, field: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=field):
        read(tmp_path, text, (old, new))


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(RecipeError, match="not TOML"):
        read(tmp_path, "name = ")


def test_a_recipe_is_found_by_name_or_path() -> None:
    assert find_recipe("multilingual-e5-small") == CATALOGUE / "multilingual-e5-small.toml"
    assert find_recipe("mine/r.toml") == Path("mine/r.toml")
    with pytest.raises(RecipeError, match="smollm2-135m-instruct"):
        find_recipe("gpt-9")
