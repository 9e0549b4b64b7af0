"""Tuning on a small random encoder: it learns, and what was trained is what a package is made of."""

import json
import random
from pathlib import Path

import pytest

from quantize.sources.adapter import merge_adapter
from quantize.tune.intents import LANGUAGES, Intent, read_shops
from tests.quantize.tiny import tiny_bert

GOLDEN = Path(__file__).parents[2] / "golden"

pytestmark = pytest.mark.workbench


def made_up(shop: str, count: int) -> list[Intent]:
    """Intents whose questions share a word with their answers in each language."""
    words = [f"{shop}{number}" for number in range(count)]
    return [
        Intent(
            word,
            {language: f"{word} {language}?" for language in LANGUAGES},
            {language: f"{word} is at the {language} counter" for language in LANGUAGES},
            {language: [f"where do you keep {word}", f"any {word} left, {language}"] for language in LANGUAGES},
        )
        for word in words
    ]


def test_it_learns_and_the_saved_adapter_is_what_was_trained(tmp_path: Path) -> None:
    import torch

    from quantize.tune.batches import shop_pairs
    from quantize.tune.lora import load_adapters, save_adapters
    from quantize.tune.search import Training, hold_out, top_one
    from quantize.tune.trainee import Trainee

    torch.manual_seed(1)
    chance = random.Random(1)
    checkpoint = tiny_bert()
    trainee = Trainee(checkpoint, rank=8, first_layer=1)
    held = hold_out(made_up("lamp", 8), chance)
    before = top_one(trainee, held)
    shops = {name: made_up(name, 8) for name in ("shoe", "rice")}
    training = Training(trainee, steps=100, rate=1e-2, temperature=0.05)
    losses = [training.step(shop_pairs(shops, 16, 2, chance)) for _ in range(100)]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert top_one(trainee, held) > before

    save_adapters(trainee.model, tmp_path / "adapter.safetensors")
    texts = ["query: any lamp3 left", "passage: rice1 is at the hi counter"]
    merged = Trainee(merge_adapter(checkpoint, tmp_path / "adapter.safetensors"), rank=1, first_layer=1)
    wider = Trainee(checkpoint, rank=12, first_layer=1)
    load_adapters(wider.model, tmp_path / "adapter.safetensors")
    with torch.no_grad():
        trained = trainee.embed(texts)
        assert (merged.embed(texts) * trained).sum(1).min() > 0.9999
        assert (wider.embed(texts) * trained).sum(1).min() > 0.9999


def test_a_text_has_one_vector_whatever_it_passes_with() -> None:
    import torch

    from quantize.tune.trainee import Trainee

    alone, together = (Trainee(tiny_bert(), rank=1, first_layer=1) for _ in range(2))
    texts = ["query: x", "passage: a much longer text than the one before it", "query: दूध"]
    with torch.no_grad():
        vectors = together.embed(texts)
        for place, text in enumerate(texts):
            assert alone.embed([text])[0] @ vectors[place] > 0.9999


def test_a_batch_holds_each_intent_once_and_too_many_are_refused() -> None:
    from quantize.tune.batches import every_text, shop_pairs

    shops = {name: made_up(name, 6) for name in ("shoe", "rice", "lamp")}
    texts = {text for intents in shops.values() for text in every_text(intents)}
    for seed in range(20):
        pairs = shop_pairs(shops, 12, 2, random.Random(seed))
        asked = {
            intent.id for intents in shops.values() for intent in intents for query, _ in pairs if intent.id in query
        }
        assert len(pairs) == len(asked) == 12
        assert {text for pair in pairs for text in pair} <= texts
    with pytest.raises(ValueError, match="18 pairs, not 19"):
        shop_pairs(shops, 19, 2, random.Random(1))


def test_a_shop_held_out_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quantize.tune.search import main

    words = ["--out", str(tmp_path / "out"), "--parallel", str(tmp_path), "--held-out", "sarees,nowhere"]
    monkeypatch.setattr("sys.argv", ["search", *words])
    with pytest.raises(SystemExit):
        main()
    assert "--held-out" in (said := capsys.readouterr().err)
    assert "nowhere.jsonl" in said
    assert not (tmp_path / "out").exists()


def test_every_shop_that_comes_along_is_whole() -> None:
    for name, intents in read_shops().items():
        assert len(intents) >= 15, name
        assert len({intent.id for intent in intents}) == len(intents), name
        for intent in intents:
            assert set(intent.faq) == set(intent.answer) == set(intent.asks) == set(LANGUAGES), (name, intent.id)
            assert all(len(set(asks)) >= 2 for asks in intent.asks.values()), (name, intent.id)
            assert all(text.strip() == text != "" for text in intent.questions), (name, intent.id)


def test_no_customer_s_question_of_the_golden_shops_is_trained_on() -> None:
    """What search is judged by must stay unseen. What shops write themselves is alike everywhere."""
    judged = {
        each["question"]
        for name in ("acceptance", "kirana", "textiles")
        for each in json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))["questions"]
    }
    trained = {text for intents in read_shops().values() for intent in intents for text in intent.questions}
    assert judged
    assert not judged & trained
