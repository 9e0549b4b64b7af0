"""The page as HTML: whole in both languages, without anything from outside, and safe from what names may hold."""

import ast
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import pytest

from appliance.console import page
from appliance.console.view import View, view
from appliance.console.words import LANGUAGES, Words
from tests.console.status import NOW_MS, credit, model, status

BASE = "http://127.0.0.1:8765"


def seen(language: str = "en", keys: tuple[tuple[str, str], ...] = (), **changed: Any) -> tuple[View, str]:
    words = Words(language)
    found = view(status(**changed), keys, NOW_MS, words)
    return found, page.render(found, words, BASE)


class Read(HTMLParser):
    """What a browser would load, and which figures the script would renew."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.live: set[str] = set()
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loaded += [found[name] or "" for name in ("src", "href") if name in found and tag != "a"]
        self.inline += [name for name in found if name.startswith("on") or name == "style"]
        if tag in ("style", "script") and "src" not in found:
            self.inline.append(tag)
        if name := found.get("data-live"):
            self.live.add(name)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "changed",
    [{}, {"credit": None}, {"enrolment": None, "credit": None}, {"models": []}, {"credit": credit(allowance="5.00")}],
    ids=["ready", "no lease", "alone", "no models", "allowance"],
)
def test_every_live_text_has_its_place_and_nothing_is_loaded_from_elsewhere(
    language: str, changed: dict[str, Any]
) -> None:
    found, html = seen(language, **changed)
    read = Read(html)
    # Without a node there is no card of it.
    assert read.live == set(found.live) - (set() if found.node_url else {"synced", "billed"})
    assert all(address.startswith("/console/") for address in read.loaded), read.loaded
    assert read.inline == []
    assert f'<html lang="{language}"' in html


def test_names_cannot_write_html() -> None:
    evil = '<script>alert("1")</script>'
    _, html = seen(
        keys=((evil, evil),),
        models=[model(evil, "chat")],
        enrolment={"customer": evil, "node_url": evil, "epoch": 1},
        credit=credit(topup=f"upi://pay?pa={evil}&tr={evil}"),
    )
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_the_python_example_is_python_and_the_curl_example_carries_json() -> None:
    found, _ = seen()
    ast.parse(page.python(found, BASE))
    ast.parse(page.python(seen(models=[model("tiny-e5", "embedding")])[0], BASE))
    assert "tiny-chat" in page.python(found, BASE)
    words = shlex.split(page.curl(found, BASE))
    assert words[1] == f"{BASE}/v1/embeddings"
    assert json.loads(words[words.index("-d") + 1])["model"] == "tiny-e5"


def test_what_is_missing_is_not_offered() -> None:
    _, html = seen(models=[], credit=None)
    assert "curl" not in html
    assert "topup.svg" not in html
    assert "There is no key yet." in html


def test_every_file_the_page_names_is_there() -> None:
    _, html = seen()
    named = set(re.findall(r'"/console/([\w.]+\.(?:css|js|svg))"', html))
    assert named == set(page.FILES)
    for name in page.FILES:
        assert page.read(name)
