"""Training data of shop-search-e5-small: what customers ask, by intent, in six languages.

`shop_intents/*.jsonl` was written for this project: one file is one shop. A line is one intent: the shop's own question
and answer, and two ways in which customers ask it, in each language.
"""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "shop_intents"
LANGUAGES = ("bn", "en", "hi", "mr", "ta", "te")


@dataclass(frozen=True)
class Intent:
    """`faq` and `answer` by language; `asks` are one language's ways to ask."""

    id: str
    faq: dict[str, str]
    answer: dict[str, str]
    asks: dict[str, list[str]]

    @property
    def questions(self) -> list[str]:
        """Every way to ask it, in every language, the shop's own included."""
        return [*self.faq.values(), *(ask for asks in self.asks.values() for ask in asks)]

    def entry(self, language: str) -> str:
        """Question and answer as a search shows them to the model."""
        return f"{self.faq[language]} {self.answer[language]}"


def read_shops(folder: Path = FOLDER) -> dict[str, list[Intent]]:
    """Each shop's intents, by the name of its file."""
    return {path.stem: [_intent(line) for line in path.read_text("utf-8").splitlines()] for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _intent(line: str) -> Intent:
    content = json.loads(line)
    return Intent(content["id"], content["faq"], content["answer"], content["asks"])
