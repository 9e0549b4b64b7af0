"""What one step of training sees: pairs of a customer's question and a text that answers it.

A batch holds a few shops whole, because a search happens inside one shop: the wrong answers must be the shop's own,
which are the hardest to tell apart.
"""

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from quantize.tune.intents import LANGUAGES, Intent

QUERY, PASSAGE = "query: ", "passage: "  # what this family of models expects before a text
OWN_WORDS = 0.12  # share of questions in the words of the shop's own FAQ
SAME_LANGUAGE = 0.4  # share of pairs in one language; the others are in two drawn apart or alike
QUESTION, ANSWER = 0.25, 0.15  # shares of passages that are the FAQ's question or its answer alone; the rest are both

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

Pair = tuple[str, str]  # query, passage


def shop_pairs(shops: Mapping[str, Sequence[Intent]], count: int, together: int, chance: random.Random) -> list[Pair]:
    """`count` different intents, out of `together` shops or as many more as it takes."""
    pairs: list[Pair] = []
    for name in chance.sample(sorted(shops), len(shops)):
        wanted = min(len(shops[name]), -(-count // together), count - len(pairs))
        pairs += [draw_pair(intent, chance) for intent in chance.sample(shops[name], wanted)]
        if len(pairs) == count:
            return pairs
    raise ValueError(f"{len(shops)} shops give {len(pairs)} pairs, not {count}")


def draw_pair(intent: Intent, chance: random.Random) -> Pair:
    asked = chance.choice(LANGUAGES)
    shown = asked if chance.random() < SAME_LANGUAGE else chance.choice(LANGUAGES)
    query = intent.faq[asked] if chance.random() < OWN_WORDS else chance.choice(intent.asks[asked])
    form = chance.random()
    if form < QUESTION:
        passage = intent.faq[shown]
    elif form < QUESTION + ANSWER:
        passage = intent.answer[shown]
    else:
        passage = intent.entry(shown)
    return QUERY + query, PASSAGE + passage


def every_text(intents: Sequence[Intent]) -> Iterator[str]:
    """All that `draw_pair` can draw."""
    for intent in intents:
        for query in intent.questions:
            yield QUERY + query
        for language in LANGUAGES:
            for passage in (intent.faq[language], intent.answer[language], intent.entry(language)):
                yield PASSAGE + passage


def translations(folder: Path, count: int, chance: random.Random) -> Iterator[list[Pair]]:
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
