"""Every text exists in every language with the same places, and a visitor gets the language asked for."""

import json
import re
from collections import Counter
from importlib.resources import files
from string import Formatter

import pytest

from appliance.console.words import LANGUAGES, Words, choose, texts


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_key_exists_with_the_same_places(language: str) -> None:
    default = texts(LANGUAGES[0])
    assert set(texts(language)) == set(default)
    for key, text in texts(language).items():
        assert text.strip() == text != "", key
        assert places(text) == places(default[key]), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_key_stands_twice(language: str) -> None:
    written = files("appliance.console").joinpath(f"words-{language}.json").read_text("utf-8")
    pairs = json.loads(written, object_pairs_hook=lambda found: found)
    assert [key for key, times in Counter(key for key, _ in pairs).items() if times > 1] == []


def test_every_key_is_used() -> None:
    package = files("appliance.console")
    code = "".join(
        package.joinpath(name).read_text("utf-8") for name in ("view.py", "figures.py", "page.jinja", "words.py")
    )
    families = ("state_", "meter_", "model_task_")
    made = {f"state_{state}{more}" for state in re.findall(r'"(\w+)"', code) for more in ("", "_more")}
    unused = [
        key
        for key in texts("en")
        if f'"{key}"' not in code and key not in made and not key.startswith(families[1:]) and key != "language"
    ]
    assert unused == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_twelve_months(language: str) -> None:
    assert len(set(Words(language).months)) == 12


def test_hindi_is_written_in_its_script() -> None:
    latin = [key for key, text in texts("hi").items() if not re.search("[\u0900-\u097f]", text)]
    assert latin == ["example_curl", "moment"]


@pytest.mark.parametrize(
    ("asked", "accepted", "language"),
    [
        (None, None, "en"),
        ("hi", "en", "hi"),
        ("fr", "hi-IN,hi;q=0.9,en;q=0.8", "hi"),
        (None, "ta-IN,ta;q=0.9,hi;q=0.5,en;q=0.4", "hi"),
        (None, "en-IN,hi;q=0.9", "en"),
        (None, "HI", "hi"),
        (None, "hi;q=0, en;q=0.1", "en"),
        (None, "*;q=0.5", "en"),
        (None, "hi;q=much,,;=" + "x" * 5000, "en"),
    ],
)
def test_the_language_a_visitor_wants(asked: str | None, accepted: str | None, language: str) -> None:
    assert choose(asked, accepted) == language
