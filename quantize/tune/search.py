"""Trains the adapter of shop-search-e5-small: `python -m quantize.tune.search --out models/catalogue/shop-search`.

Contrastive (InfoNCE): a customer's way to ask, in any language, must lie nearer to the shop's question and answer of
its intent, in any other language, than to those of every other intent in the batch. Deterministic for a seed on one
machine.
"""

import argparse
import csv
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from quantize.recipe import find_recipe, read_recipe
from quantize.sources.checkpoint import Checkpoint, dense
from quantize.sources.read import read_source
from quantize.tune.intents import Intent, read_intents
from quantize.tune.lora import adapt, save_adapters

GROUP = 16  # texts of like length that pass the model together
STEP = 8  # lengths are rounded up to it: PyTorch compiles a kernel for every shape it meets
QUERY, PASSAGE = "query: ", "passage: "
SIB_FOLDERS = {
    "en": "eng_Latn",
    "hi": "hin_Deva",
    "ta": "tam_Taml",
    "te": "tel_Telu",
    "bn": "ben_Beng",
    "mr": "mar_Deva",
    "gu": "guj_Gujr",
    "kn": "kan_Knda",
    "ml": "mal_Mlym",
    "pa": "pan_Guru",
}


class Trainee:
    """The encoder with adapters on its upper layers. The lower ones stay as they are, so a text passes them once."""

    def __init__(self, checkpoint: Checkpoint, rank: int, first_layer: int) -> None:
        self._tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        config = {**checkpoint.config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        # Short texts: plain matrix products are three times as fast here as PyTorch's flash attention on a CPU.
        self.model = BertModel(BertConfig(**config, attn_implementation="eager"), add_pooling_layer=False)
        weights = {name: torch.from_numpy(np.array(dense(tensor))) for name, tensor in checkpoint.tensors.items()}
        self.model.load_state_dict(weights, strict=False)
        self.trained = adapt(self.model, rank, tuple(f"encoder.layer.{n}." for n in range(first_layer, 12)))
        self._lower = self.model.encoder.layer[:first_layer]
        self._upper = self.model.encoder.layer[first_layer:]
        self._passed: dict[str, torch.Tensor] = {}

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [texts, hidden]. Texts of like length pass together, so that little is padding."""
        order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
        parts = [order[start : start + GROUP] for start in range(0, len(order), GROUP)]
        vectors = torch.cat([self._embed([texts[n] for n in part]) for part in parts])
        return vectors[torch.tensor(order).argsort()]

    def _embed(self, texts: Sequence[str]) -> torch.Tensor:
        states = [self._below(text) for text in texts]
        longest = -(-max(map(len, states)) // STEP) * STEP
        mask = torch.zeros(len(states), longest)
        values = torch.zeros(len(states), longest, states[0].shape[1])
        for row, state in enumerate(states):
            mask[row, : len(state)] = 1
            values[row, : len(state)] = state
        spread = torch.where(mask[:, None, None, :] > 0, 0.0, torch.finfo(torch.float32).min)
        for layer in self._upper:
            values = _states(layer(values, spread))
        weights = mask[..., None]
        return functional.normalize((values * weights).sum(1) / weights.sum(1), dim=-1)

    @torch.no_grad()
    def _below(self, text: str) -> torch.Tensor:
        if text not in self._passed:
            ids = torch.tensor([self._tokenizer.encode(text).ids])
            values = self.model.embeddings(input_ids=ids)
            for layer in self._lower:
                values = _states(layer(values, None))
            self._passed[text] = values[0]
        return self._passed[text]


def _states(answer: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return answer if isinstance(answer, torch.Tensor) else answer[0]


def pairs(intents: Sequence[Intent], count: int, chance: random.Random) -> list[tuple[str, str]]:
    """`count` intents, each as (a way to ask it, the shop's question or answer or both) in languages drawn apart."""
    drawn = []
    for intent in chance.sample(intents, count):
        language = chance.choice(list(intent.faq))
        ask = chance.choice(
            [intent.faq[chance.choice(list(intent.faq))], *intent.asks[language], *intent.asks[language]]
        )
        shown = chance.choice(list(intent.faq))
        form = chance.random()
        if form < 0.4:
            passage = intent.faq[shown]
        elif form < 0.8:
            passage = intent.answer[shown]
        else:
            passage = f"{intent.faq[shown]} {intent.answer[shown]}"
        drawn.append((QUERY + ask, PASSAGE + passage))
    return drawn


def translations(folder: Path, chance: random.Random, count: int) -> Iterator[list[tuple[str, str]]]:
    """Batches of a line and its translation, from SIB-200's train split, so that the model keeps what it knows."""
    texts = {language: _read_sib(folder / name / "train.tsv") for language, name in SIB_FOLDERS.items()}
    lines = [line for line in texts["en"] if all(20 < len(text.get(line, "")) < 160 for text in texts.values())]
    while True:
        drawn = chance.sample(lines, count)
        names = [chance.sample(sorted(texts), 2) for _ in drawn]
        yield [(QUERY + texts[a][n], PASSAGE + texts[b][n]) for n, (a, b) in zip(drawn, names, strict=True)]


def _read_sib(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["index_id"]: row["text"] for row in rows}


def loss_of(trainee: Trainee, batch: Sequence[tuple[str, str]], temperature: float) -> torch.Tensor:
    """InfoNCE in both directions: every other pair of the batch is a negative."""
    vectors = trainee.embed([text for pair in batch for text in pair])
    scores = vectors[0::2] @ vectors[1::2].T / temperature
    target = torch.arange(len(batch))
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


@torch.no_grad()
def top_one(trainee: Trainee, entries: Sequence[tuple[str, str]], asked: Sequence[tuple[str, int]]) -> float:
    """Share of questions whose entry (question, answer) comes first, scored as the search task scores."""
    shown = trainee.embed([PASSAGE + question for question, _ in entries])
    answers = trainee.embed([PASSAGE + answer for _, answer in entries])
    queries = trainee.embed([QUERY + ask for ask, _ in asked])
    best = (queries @ (shown + answers).T).argmax(1)
    return float((best == torch.tensor([place for _, place in asked])).float().mean())


def held_out(intents: Sequence[Intent], chance: random.Random) -> tuple[list[tuple[str, str]], list[tuple[str, int]]]:
    """A shop made of intents that are not trained on: each entry in one language, asked in all."""
    entries, asked = [], []
    for place, intent in enumerate(intents):
        language = chance.choice(list(intent.faq))
        entries.append((intent.faq[language], intent.answer[language]))
        asked += [(ask, place) for asks in intent.asks.values() for ask in asks]
    return entries, asked


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, required=True, help="folder for adapter.safetensors and training.json")
    options.add_argument("--parallel", type=Path, required=True, help="folder of SIB-200")
    options.add_argument("--cache", type=Path, default=Path(".nukkad/cache"))
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--first-layer", type=int, default=6)
    options.add_argument("--rate", type=float, default=1e-3)
    options.add_argument("--temperature", type=float, default=0.04)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--held-out", type=int, default=20, help="intents kept for measuring")
    asked = options.parse_args()

    chance = random.Random(asked.seed)  # noqa: S311 - training, not secrets
    torch.manual_seed(asked.seed)
    intents = list(read_intents())
    chance.shuffle(intents)
    kept, trained = intents[: asked.held_out], intents[asked.held_out :]
    entries, questions = held_out(kept, chance)
    checkpoint, _ = read_source(
        read_recipe(find_recipe("multilingual-e5-small")), asked.out, asked.cache, lambda _what, _share: None
    )
    trainee = Trainee(checkpoint, asked.rank, asked.first_layer)
    before = top_one(trainee, entries, questions)
    print(f"{len(trained)} intents to train on, {len(kept)} held out; top-1 before {before:.3f}", flush=True)

    optimizer = torch.optim.AdamW(trainee.trained, lr=asked.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, asked.rate, total_steps=asked.steps, pct_start=0.1)
    general = translations(asked.parallel, chance, asked.batch)
    for step in range(1, asked.steps + 1):
        batch = next(general) if step % 4 == 0 else pairs(trained, asked.batch, chance)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(trainee, batch, asked.temperature)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.trained, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == asked.steps:
            print(
                f"step {step}: loss {loss.item():.3f}, held-out top-1 {top_one(trainee, entries, questions):.3f}",
                flush=True,
            )
    asked.out.mkdir(parents=True, exist_ok=True)
    save_adapters(trainee.model, asked.out / "adapter.safetensors")
    record = {name: value for name, value in vars(asked).items() if isinstance(value, int | float)}
    record |= {"intents": len(trained), "top1_before": before, "top1_after": top_one(trainee, entries, questions)}
    (asked.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
