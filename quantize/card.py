"""The quality card of a package: what it is made from, what each lane loses, how its tokenizer treats each language."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from quantize.gate import DecoderScore, Score, Verdict
from quantize.recipe import Recipe

Card = dict[str, Any]


def write_card(
    recipe: Recipe,
    *,
    sources: Sequence[Mapping[str, str]],
    sizes: Mapping[str, int],
    scores: Mapping[str, Score],
    verdicts: Sequence[Verdict],
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
) -> Card:
    """`sizes` are bytes by lane, shared weights included. Figures are rounded so that a rebuild gives the same card."""
    return {
        "name": recipe.name,
        "version": recipe.version,
        "licence": recipe.licence,
        "copyright": recipe.copyright,
        "languages": list(recipe.languages),
        "sources": [dict(source) for source in sources],
        "default_lane": recipe.default_lane,
        "lanes": {lane: _lane(recipe, lane, score, sizes) for lane, score in scores.items()},
        "limits": [
            {"lane": v.lane, "measure": v.measure, "value": _round(v.value, 4), "limit": v.limit, "passed": v.passed}
            for v in verdicts
        ],
        "tokens_per_word": {language: _tokens_per_word(tokenizer, lines) for language, lines in texts.items()},
        "tokenizer_digest": tokenizer_digest(tokenizer, texts),
        "not_good_at": list(recipe.not_good_at),
    }


def tokenizer_digest(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> str:
    """sha256 of the token ids of all texts as JSON: another tokenizer that gives the same digest gives the same ids."""
    ids = {language: [tokenizer.encode(line).ids for line in lines] for language, lines in texts.items()}
    return hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()


def print_card(card: Card) -> str:
    """The card as a page to read."""
    lines = [f"# {card['name']} {card['version']}", "", f"Licence: {card['licence']}. {card['copyright']}.", ""]
    lines += [f"Languages: {', '.join(card['languages'])}.", "", "## Not good at", ""]
    lines += [f"- {limit}" for limit in card["not_good_at"]]
    lines += ["", "## Lanes", "", "Measured against full precision (fp32) on short texts about shop life.", ""]
    lines += _table(
        ["lane", "MB", *_measures(card), "in the package"],
        [
            [
                lane + (" (default)" if lane == card["default_lane"] else ""),
                f"{entry['bytes'] / 1e6:.0f}" if "bytes" in entry else "–",
                *(_show(entry[measure]) for measure in _measures(card)),
                "yes" if entry["shipped"] else "no",
            ]
            for lane, entry in card["lanes"].items()
        ],
    )
    lines += ["", "## Languages", ""]
    perplexity = card["lanes"]["fp32"].get("perplexity", {})
    lines += _table(
        ["language", "tokens per word", *(["perplexity, fp32"] if perplexity else [])],
        [
            [language, str(count), *([_show(perplexity[language])] if perplexity else [])]
            for language, count in card["tokens_per_word"].items()
        ],
    )
    lines += ["", "## Sources", "", *(f"- {s['file']}, sha256 `{s['sha256']}`" for s in card["sources"])]
    lines += ["", f"Tokenizer: ids of the texts above have sha256 `{card['tokenizer_digest']}`.", ""]
    return "\n".join(lines)


def _lane(recipe: Recipe, lane: str, score: Score, sizes: Mapping[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"shipped": lane in recipe.shipped}
    if lane in sizes:
        entry["bytes"] = sizes[lane]
    if isinstance(score, DecoderScore):
        entry["perplexity"] = {language: _round(value, 2) for language, value in score.perplexity.items()}
        entry["perplexity_rise"] = _round(score.rise, 4)
        entry["agreement"] = _round(score.agreement, 4)
    else:
        entry["cosine_min"] = _round(score.cosine_min, 4)
        entry["cosine_mean"] = _round(score.cosine_mean, 4)
    return entry


def _round(value: float, digits: int) -> float | None:
    """None where a broken lane gives no number: JSON has no NaN."""
    return round(value, digits) if math.isfinite(value) else None


def _show(figure: float | None) -> str:
    return "–" if figure is None else str(figure)


def _measures(card: Card) -> list[str]:
    known = ("perplexity_rise", "agreement", "cosine_min", "cosine_mean")
    return [measure for measure in known if measure in card["lanes"]["fp32"]]


def _tokens_per_word(tokenizer: Tokenizer, lines: Sequence[str]) -> float:
    tokens = sum(len(tokenizer.encode(line, add_special_tokens=False).ids) for line in lines)
    return round(tokens / sum(len(line.split()) for line in lines), 2)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
