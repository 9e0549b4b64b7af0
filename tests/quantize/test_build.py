import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from appliance.engine.served import load
from appliance.engine.settings import EngineSettings
from appliance.engine.tokens import Tokenizers
from models.layout import media_type
from models.manifest import read_manifest
from quantize.build import build, plain_tokenizer
from quantize.gate import BelowThreshold, DecoderScore, score_decoder
from quantize.recipe import RecipeError, read_recipe
from quantize.running import Decoder, Encoder
from quantize.sources.checkpoint import SourceError
from tests.quantize.tiny import (
    DECODER_RECIPE,
    ENCODER_RECIPE,
    HIDDEN,
    INNER,
    tiny_bert,
    tiny_llama,
    write_recipe,
    write_safetensors,
)

PAD = 257


def test_a_decoder_s_package_runs_as_its_manifest_says(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(DECODER_RECIPE, tiny_llama(), tmp_path))
    folder = build(recipe, tmp_path / "out", tmp_path / "cache")
    manifest = read_manifest(folder)
    assert set(manifest.lanes) == {"q8", "int8"}
    assert manifest.chat is not None
    assert manifest.chat.stop_token_ids == (256,)
    assert manifest.bos_token_id is None
    test = manifest.self_test[0]
    ids = Tokenizer.from_file(str(folder / manifest.tokenizer)).encode(test.text).ids
    decoder = Decoder(folder / manifest.lanes["q8"].graph, manifest.geometry, 1, 64)
    assert tuple(decoder.greedy([ids], len(test.tokens))[0]) == test.tokens
    for path in folder.iterdir():
        media_type(path.name, manifest)  # Refuses a file without a purpose.


@pytest.mark.parametrize("positions", [512, 96])
def test_a_decoder_of_few_positions_is_measured_and_tested_within_them(positions: int, tmp_path: Path) -> None:
    text = DECODER_RECIPE.replace("context_tokens = 512", f"context_tokens = {positions}")
    recipe = read_recipe(write_recipe(text, tiny_llama(max_position_embeddings=positions), tmp_path))
    folder = build(recipe, tmp_path / "out", tmp_path / "cache")
    manifest = read_manifest(folder)
    load(SimpleNamespace(manifest=manifest, digest=bytes(32), folder=folder), EngineSettings(threads=1), Tokenizers())


def test_an_encoder_s_package_runs_as_its_manifest_says(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(ENCODER_RECIPE, tiny_bert(), tmp_path))
    folder = build(recipe, tmp_path / "out", tmp_path / "cache")
    manifest = read_manifest(folder)
    ids = Tokenizer.from_file(str(folder / manifest.tokenizer)).encode(manifest.self_test[0].text).ids
    vector = Encoder(folder / manifest.lanes["int8"].graph).embed([ids])[0]
    assert vector @ np.array(manifest.self_test[0].vector) > 0.999


def test_the_card_tells_what_was_measured(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(DECODER_RECIPE, tiny_llama(), tmp_path))
    folder = build(recipe, tmp_path / "out", tmp_path / "cache")
    card = json.loads((folder / "card.json").read_text())
    assert list(card["lanes"]) == ["fp32", "q8", "int8", "q4"]
    assert card["lanes"]["q8"]["bytes"] == sum(
        (folder / name).stat().st_size for name in ("model.q8.onnx", "model.q8.weights", "model.onnx.weights")
    )
    assert "bytes" not in card["lanes"]["q4"]
    assert len(card["tokens_per_word"]) == 11
    assert [source["file"] for source in card["sources"]] == ["config.json", "tokenizer.json", "model.safetensors"]
    page = (folder / "card.md").read_text()
    assert (
        f"| q8 (default) | 0 | {card['lanes']['q8']['perplexity_rise']} | {card['lanes']['q8']['agreement']} |" in page
    )
    assert "everything: its weights are random" in page
    assert (folder / "LICENSE").read_text().startswith("Nobody\n")


def test_a_card_holds_no_bare_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that is only measured may be broken in any way; the card is JSON all the same."""

    def spoil(*args: Any, **more: Any) -> dict[str, DecoderScore]:
        scores = score_decoder(*args, **more)
        return {**scores, "q4": DecoderScore(dict.fromkeys(scores["q4"].perplexity, math.inf), 0.0, math.nan)}

    monkeypatch.setattr("quantize.build.score_decoder", spoil)
    recipe = read_recipe(write_recipe(DECODER_RECIPE, tiny_llama(), tmp_path))
    text = (build(recipe, tmp_path / "out", tmp_path / "cache") / "card.json").read_text()
    card = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert card["lanes"]["q4"]["perplexity_rise"] is None
    assert card["lanes"]["q8"]["perplexity_rise"] is not None


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(DECODER_RECIPE, tiny_llama(), tmp_path))
    first, second = (build(recipe, tmp_path / name, tmp_path / "cache") for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_an_adapter_is_merged_and_stands_on_the_card(tmp_path: Path) -> None:
    name = "encoder.layer.1.output.dense.weight"
    text = ENCODER_RECIPE.replace('version = "1"', 'version = "1"\nadapter = { path = "tuned.safetensors" }')
    path = write_recipe(text, tiny_bert(), tmp_path)
    halves = {f"{name}.a": (2, INNER), f"{name}.b": (HIDDEN, 2)}
    write_safetensors(
        tmp_path / "tuned.safetensors",
        {
            half: ("F32", shape, np.sin(np.arange(np.prod(shape), dtype=np.float32)).tobytes())
            for half, shape in halves.items()
        },
    )
    tuned = build(read_recipe(path), tmp_path / "tuned", tmp_path / "cache")
    path.write_text(ENCODER_RECIPE)
    plain = build(read_recipe(path), tmp_path / "plain", tmp_path / "cache")
    first, second = (np.array(read_manifest(folder).self_test[0].vector) for folder in (tuned, plain))
    assert first @ second < 0.99
    card = json.loads((tuned / "card.json").read_text())
    (digest,) = [source["sha256"] for source in card["sources"] if source["file"] == "tuned.safetensors"]
    assert digest == sha256((tmp_path / "tuned.safetensors").read_bytes()).hexdigest()
    for said in (digest, digest[::-1]):
        path.write_text(text.replace('safetensors"', f'safetensors", sha256 = "{said}"'))
        if said == digest:
            build(read_recipe(path), tmp_path / "again", tmp_path / "cache")
        else:
            with pytest.raises(SourceError, match=r"tuned\.safetensors.*the recipe says"):
                build(read_recipe(path), tmp_path / "other", tmp_path / "cache")


def test_a_lane_below_its_threshold_leaves_no_package(tmp_path: Path) -> None:
    text = ENCODER_RECIPE.replace("cosine_min = 0.95", "cosine_min = 1.0")
    recipe = read_recipe(write_recipe(text, tiny_bert(), tmp_path))
    with pytest.raises(BelowThreshold, match="int8"):
        build(recipe, tmp_path / "made" / "out", tmp_path / "cache")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_package_is_replaced_and_anything_else_refused(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(ENCODER_RECIPE, tiny_bert(), tmp_path))
    out = build(recipe, tmp_path / "out", tmp_path / "cache")
    (out / "stray").write_text("from before")
    build(recipe, out, tmp_path / "cache")
    assert not (out / "stray").exists()
    other = tmp_path / "papers"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(RecipeError, match="papers"):
        build(recipe, other, tmp_path / "cache")
    assert (other / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("context_tokens = 512", "context_tokens = 4096", "context_tokens"),
        ('stop_tokens = ["<end>"]', 'stop_tokens = ["<finis>"]', "stop_tokens"),
        ('languages = ["en", "hi"]', 'languages = ["de"]', "languages"),
        ('licence = "Apache-2.0"', 'licence = "Beerware"', "licence"),
        ("context_tokens = 512", "context_tokens = 512\nprepend_bos = true", "prepend_bos"),
        ('["chat", "completion"]', '["chat", "embedding"]', "tasks"),
        ('self_test = ["The shop opens"]', f"self_test = {['a'] * 17}", "self_test"),
        ('self_test = ["The shop opens"]', f'self_test = ["a", "{"b" * 512}"]', r"self_test\.1"),
    ],
)
def test_a_recipe_that_does_not_fit_its_weights_is_refused_by_field(
    old: str, new: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("quantize.build.write_lane")  # It is refused before anything is lowered.
    recipe = read_recipe(write_recipe(DECODER_RECIPE.replace(old, new), tiny_llama(), tmp_path))
    with pytest.raises(RecipeError, match=field):
        build(recipe, tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [("dim = 64", "dim = 32", r"embedding\.dim"), ('tasks = ["embedding"]', 'tasks = ["search"]', "tasks")],
)
def test_an_encoder_s_recipe_that_does_not_fit_is_refused_by_field(
    old: str, new: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("quantize.build.write_lane")
    recipe = read_recipe(write_recipe(ENCODER_RECIPE.replace(old, new), tiny_bert(), tmp_path))
    with pytest.raises(RecipeError, match=field):
        build(recipe, tmp_path / "out", tmp_path / "cache")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(ENCODER_RECIPE, replace(tiny_bert(), tokenizer="{}"), tmp_path))
    with pytest.raises(SourceError, match=r"tokenizer\.json"):
        build(recipe, tmp_path / "out", tmp_path / "cache")


def starting_with_pad(document: str) -> str:
    """The tokenizer, adding <pad> before a text where special tokens are asked for, as Llama's adds its first token."""
    tokenizer = Tokenizer.from_str(document)
    tokenizer.post_processor = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", PAD)])
    return tokenizer.to_str()


@pytest.mark.parametrize("prepends", [True, False])
@pytest.mark.parametrize("adds", [True, False])
def test_the_engine_reads_a_self_test_as_the_build_did(adds: bool, prepends: bool, tmp_path: Path) -> None:
    """With a first token of the manifest's and of the tokenizer's, or without; and control tokens are only text."""
    checkpoint = tiny_llama(bos_token_id=PAD)
    if adds:
        checkpoint = replace(checkpoint, tokenizer=starting_with_pad(checkpoint.tokenizer))
    tests = ["The shop opens", "a", "Rice", "tea<end>", "<pad>milk", "दुकान"]
    text = DECODER_RECIPE.replace('["The shop opens"]', json.dumps(tests, ensure_ascii=False))
    text = text.replace("context_tokens = 512", f"context_tokens = 512\nprepend_bos = {str(prepends).lower()}")
    folder = build(read_recipe(write_recipe(text, checkpoint, tmp_path)), tmp_path / "out", tmp_path / "cache")
    manifest = read_manifest(folder)
    assert manifest.bos_token_id == (PAD if prepends else None)
    load(SimpleNamespace(manifest=manifest, digest=bytes(32), folder=folder), EngineSettings(threads=1), Tokenizers())


def test_chat_needs_a_template(tmp_path: Path) -> None:
    checkpoint = replace(tiny_llama(), chat_template=None)
    recipe = read_recipe(write_recipe(DECODER_RECIPE, checkpoint, tmp_path))
    with pytest.raises(RecipeError, match="chat template"):
        build(recipe, tmp_path / "out", tmp_path / "cache")


def test_a_local_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = 'source = { format = "gguf", weights = { path = "none.gguf" } }'
    text = DECODER_RECIPE.replace('source = { format = "folder", path = "weights" }', source)
    with pytest.raises(SourceError, match=r"none\.gguf"):
        build(read_recipe(write_recipe(text, tiny_llama(), tmp_path)), tmp_path / "out", tmp_path / "cache")


def test_a_tokenizer_neither_cuts_nor_pads() -> None:
    tokenizer = Tokenizer.from_str(tiny_llama().tokenizer)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    assert len(tokenizer.encode("a" * 20).ids) == len(tokenizer.encode("a").ids) == 8
    plain = Tokenizer.from_str(plain_tokenizer(tokenizer.to_str()))
    assert (len(plain.encode("a" * 20).ids), len(plain.encode("a").ids)) == (20, 1)
