"""Trains the adapter of shop-search-e5-small: `python -m quantize.tune.search --help`; docs/packages.md has the words.

Contrastive (InfoNCE): a customer's way to ask, in any language, must lie nearer to the shop's question and answer of
its intent, in any other language, than to those of every other intent in the batch.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from quantize.recipe import find_recipe, read_recipe
from quantize.sources.read import read_source
from quantize.tune.batches import PASSAGE, QUERY, Pair, every_text, shop_pairs, translations
from quantize.tune.intents import FOLDER, LANGUAGES, Intent, read_shops
from quantize.tune.lora import load_adapters, save_adapters
from quantize.tune.trainee import Trainee

BASE = "multilingual-e5-small"
TELL_EVERY = 100  # steps


@dataclass(frozen=True)
class HeldOut:
    """A shop that is not trained on: each entry in one language, asked in all. `asked` is (question, entry's place)."""

    entries: tuple[str, ...]
    asked: tuple[tuple[str, int], ...]


def hold_out(intents: Sequence[Intent], chance: random.Random) -> HeldOut:
    entries = tuple(intent.entry(chance.choice(LANGUAGES)) for intent in intents)
    places = enumerate(intents)
    asked = tuple((ask, place) for place, intent in places for asks in intent.asks.values() for ask in asks)
    return HeldOut(entries, asked)


@torch.no_grad()
def top_one(trainee: Trainee, shop: HeldOut) -> float:
    """Share of questions whose entry comes first."""
    entries = trainee.embed([PASSAGE + entry for entry in shop.entries])
    queries = trainee.embed([QUERY + ask for ask, _ in shop.asked])
    best = (queries @ entries.T).argmax(1)
    return float((best == torch.tensor([place for _, place in shop.asked])).float().mean())


def loss_of(trainee: Trainee, pairs: Sequence[Pair], temperature: float) -> torch.Tensor:
    """InfoNCE in both directions: every other pair of the batch is a negative."""
    vectors = trainee.embed([text for pair in pairs for text in pair])
    scores = vectors[0::2] @ vectors[1::2].T / temperature
    target = torch.arange(len(pairs))
    return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2


class Training:
    """One run over one cycle of learning rates."""

    def __init__(self, trainee: Trainee, steps: int, rate: float, temperature: float) -> None:
        self._trainee = trainee
        self._temperature = temperature
        self._optimizer = torch.optim.AdamW(trainee.trained, lr=rate, weight_decay=0.01)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, rate, total_steps=steps, pct_start=0.1)

    def step(self, pairs: Sequence[Pair]) -> float:
        """Learn from one batch; its loss."""
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(self._trainee, pairs, self._temperature)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._trainee.trained, 1.0)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, required=True, help="where adapter.safetensors and training.json go")
    options.add_argument("--parallel", type=Path, required=True, help="folder of SIB-200")
    options.add_argument("--shops", type=Path, default=FOLDER, help="folder of a .jsonl for each shop")
    options.add_argument("--cache", type=Path, default=Path(".nukkad/cache"), help="where fetched wheels are kept")
    options.add_argument("--start", type=Path, help="an adapter of this or a lower rank to go on from")
    options.add_argument(
        "--held-out", default="sarees,courier", help="shops that are measured on instead of trained on"
    )
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--batch", type=int, default=72, help="pairs in a step")
    options.add_argument("--together", type=int, default=3, help="shops in a step")
    options.add_argument("--general-every", type=int, default=16, help="how often a step is of translations instead")
    options.add_argument("--rank", type=int, default=96)
    options.add_argument("--first-layer", type=int, default=4)
    options.add_argument("--rate", type=float, default=5e-4)
    options.add_argument("--temperature", type=float, default=0.05)
    options.add_argument("--seed", type=int, default=7)
    asked = options.parse_args()
    shops = read_shops(asked.shops)
    held_out = asked.held_out.split(",")
    for name in held_out:
        if name not in shops:
            options.error(f"argument --held-out: {asked.shops} has no {name}.jsonl")

    chance = random.Random(asked.seed)  # noqa: S311 - training, not secrets
    torch.manual_seed(asked.seed)
    held = {name: hold_out(shops.pop(name), chance) for name in held_out}
    asked.out.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(find_recipe(BASE))
    checkpoint, _ = read_source(recipe, asked.out, asked.cache, lambda _what, _share: None)
    trainee = Trainee(checkpoint, asked.rank, asked.first_layer)
    if asked.start is not None:
        load_adapters(trainee.model, asked.start)
    trainee.pass_lower(text for intents in shops.values() for text in every_text(intents))

    def measured() -> dict[str, float]:
        return {name: round(top_one(trainee, shop), 3) for name, shop in held.items()}

    before = measured()
    print(f"{len(shops)} shops, {sum(map(len, shops.values()))} intents; top-1 before: {before}", flush=True)
    training = Training(trainee, asked.steps, asked.rate, asked.temperature)
    general = translations(asked.parallel, asked.batch, chance)
    began, losses = time.monotonic(), list[float]()
    for step in range(1, asked.steps + 1):
        if step % asked.general_every == 0:
            training.step(next(general))
        else:
            losses.append(training.step(shop_pairs(shops, asked.batch, asked.together, chance)))
        if step % TELL_EVERY == 0 or step == asked.steps:
            loss = sum(losses[-TELL_EVERY:]) / len(losses[-TELL_EVERY:])
            print(f"step {step}, {time.monotonic() - began:.0f} s: loss {loss:.3f}, {measured()}", flush=True)
            save_adapters(trainee.model, asked.out / "adapter.safetensors")
    record = {name: value for name, value in vars(asked).items() if isinstance(value, int | float)}
    told = {**record, "shops": len(shops), "top1_before": before, "top1_after": measured()}
    (asked.out / "training.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
