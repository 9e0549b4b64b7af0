"""Training data of the shop-search model: what customers ask, by intent, in six languages.

`shop_intents/*.jsonl` was written for this project. A line is one intent: the shop's own question and answer, and two
ways in which customers ask it, in each language.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "shop_intents"


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

    @property
    def passages(self) -> list[str]:
        return [*self.faq.values(), *self.answer.values()]


def read_intents(folder: Path = FOLDER) -> Iterator[Intent]:
    """Ids are unique over all files: the file's name stands before the line's own id."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            content = json.loads(line)
            yield Intent(f"{path.stem}/{content['id']}", content["faq"], content["answer"], content["asks"])
