"""The words of the page in each language, and which language a visitor wants."""

import json
import re
from functools import lru_cache
from importlib.resources import files

LANGUAGES = ("en", "hi")
DEFAULT = LANGUAGES[0]
_RANGE = re.compile(r"([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?(?:\s*;\s*q=([01](?:\.[0-9]{1,3})?))?")


class Words:
    """`words("key", count=3)` is the text of a key with its places filled in. An unknown key is a programming error."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._texts = texts(language)

    def __call__(self, key: str, **places: object) -> str:
        return self._texts[key].format(**places)

    @property
    def months(self) -> list[str]:
        return self._texts["months"].split()


@lru_cache(maxsize=len(LANGUAGES))
def texts(language: str) -> dict[str, str]:
    found = json.loads(files(__package__).joinpath(f"words-{language}.json").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def choose(asked: str | None, accepted: str | None) -> str:
    """`asked` is ?lang=, `accepted` the header Accept-Language. What the page does not speak is passed over."""
    if asked in LANGUAGES:
        return asked
    best, weight = DEFAULT, 0.0
    for part in (accepted or "").split(",")[:20]:
        found = _RANGE.fullmatch(part.strip())
        if found and found.group(1).lower() in LANGUAGES and float(found.group(2) or 1) > weight:
            best, weight = found.group(1).lower(), float(found.group(2) or 1)
    return best
