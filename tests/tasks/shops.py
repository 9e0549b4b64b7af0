"""The golden shops: their entries, and what their customers ask, each question with the entry that answers it."""

import json
from dataclasses import dataclass
from pathlib import Path

from appliance.store.collections import Entry
from appliance.tasks.upload import UploadedEntry, checked

GOLDEN = Path(__file__).parents[1] / "golden"


@dataclass(frozen=True)
class Question:
    language: str
    question: str
    expected: str


def kirana() -> tuple[tuple[Entry, ...], tuple[Question, ...]]:
    """A shop of groceries and electronics: nothing in the search was chosen by its questions."""
    return _entries(_read("faq.json")), _questions(_read("faq_questions.json"))


def textiles() -> tuple[tuple[Entry, ...], tuple[Question, ...]]:
    """A shop of clothes: the search was tuned on its questions."""
    shop = _read("faq_dev.json")
    return _entries(shop["entries"]), _questions(shop["questions"])


def _read(name: str):  # type: ignore[no-untyped-def]  # JSON
    return json.loads((GOLDEN / name).read_text("utf-8"))


def _entries(rows: list[dict[str, object]]) -> tuple[Entry, ...]:
    return checked([UploadedEntry.model_validate(row) for row in rows])


def _questions(rows: list[dict[str, str]]) -> tuple[Question, ...]:
    return tuple(Question(**row) for row in rows)
