"""One spelling for one text: Unicode forms, joiners and digits are made equal; letters, punctuation and meaning stay.

Built on indic-nlp-library's normalisers, but only cluster by cluster (a letter and its signs), because on whole text
they strip every joiner, turn `मूल्य: 50` into a visarga and `|` into a danda.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from indicnlp.normalize.indic_normalize import IndicNormalizerFactory

from appliance.text.offsets import OffsetMap, Piece, rewrite
from appliance.text.scripts import script_of


@dataclass(frozen=True)
class Normalised:
    """`map` leads from every span of `text` back to the text that was given."""

    text: str
    map: OffsetMap


# The library's normalisers are named by language, but the rules we let through depend on the script alone.
_LIBRARY_LANGUAGE = {
    "Deva": "hi",
    "Beng": "bn",
    "Guru": "pa",
    "Gujr": "gu",
    "Orya": "or",
    "Taml": "ta",
    "Telu": "te",
    "Knda": "kn",
    "Mlym": "ml",
}
# Letters that the library wrongly merges with others: Marathi ॲ (it makes ए of it) and Odia ଵ (ବ).
_LETTERS_OF_THEIR_OWN = frozenset("\u0972\u0b35")

_CHILLU = {"ണ": "ൺ", "ന": "ൻ", "ര": "ർ", "ല": "ൽ", "ള": "ൾ", "ക": "ൿ"}
_OLD_FORMS = re.compile("([ണനരലളക])\u0d4d\u200d|ত\u09cd\u200d")
_INVISIBLE = re.compile("[\u00ad\u200c\u200d\u2060\ufeff\ufffe]+")
_SPACES = re.compile("[\u00a0\u200b\u202f]")
_VIRAMAS = frozenset("\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca")
_URDU_LETTERS = {"\u064a": "\u06cc", "\u0649": "\u06cc", "\u0643": "\u06a9", "\u0647": "\u06c1"}


def normalise(text: str, language: str | None = None, *, ascii_digits: bool = True) -> Normalised:
    """NFC; spaces that look alike become one; joiners stay where they change what is seen; old Malayalam chillus and
    Bengali khanda ta become the letters of today; digits of every script become ASCII unless `ascii_digits` is False.

    `language` (ISO 639-1) matters only for Urdu, whose letters have Arabic look-alikes. Idempotent.
    """
    steps = [_clusters, _invisible, _spaces, _old_forms, _clusters]
    if ascii_digits:
        steps.append(_digits)
    if language == "ur":
        steps.append(_urdu)
    current, offsets = rewrite(text, ())
    for step in steps:
        if pieces := tuple(step(current)):  # Most texts need most steps not at all.
            current, later = rewrite(current, pieces)
            offsets = offsets.then(later)
    return Normalised(current, offsets)


def _clusters(text: str) -> Iterator[Piece]:
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and _continues(text[end]):
            continue
        cluster = text[start:end]
        settled = cluster if cluster.isascii() else _settle(cluster)
        if settled != cluster:
            yield Piece(start, end, settled)
        start = end


def _continues(character: str) -> bool:
    """Whether a code point composes with, or is reordered among, those before it: signs, Hangul vowels and finals."""
    return character > "\u02ff" and (unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff")


@lru_cache(maxsize=16_384)
def _settle(cluster: str) -> str:
    """NFC and the library's repairs until nothing changes; each repair shortens the cluster or retires a code."""
    current = unicodedata.normalize("NFC", cluster)
    script = script_of(current[0])
    if script not in _LIBRARY_LANGUAGE or any(script_of(c) != script or c in _LETTERS_OF_THEIR_OWN for c in current):
        return current
    repaired = unicodedata.normalize("NFC", _library(script).normalize(current))
    return current if repaired == current else _settle(repaired)


@lru_cache(maxsize=len(_LIBRARY_LANGUAGE))
def _library(script: str):  # type: ignore[no-untyped-def]  # the library has no types
    return IndicNormalizerFactory().get_normalizer(_LIBRARY_LANGUAGE[script])


def _invisible(text: str) -> Iterator[Piece]:
    """Marks that nobody sees go; a joiner stays where it shows: beside a virama, between Arabic letters, in emoji."""
    for run in _INVISIBLE.finditer(text):
        before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
        joiner = next((c for c in run.group() if c in "\u200c\u200d"), "")
        kept = joiner if before and after and _joins(before, after) else ""
        if not after and before in _VIRAMAS:
            kept = joiner
        if kept != run.group():
            yield Piece(run.start(), run.end(), kept)


def _joins(before: str, after: str) -> bool:
    if before in _VIRAMAS or after in _VIRAMAS:
        return True
    if script_of(before) == "Arab" and script_of(after) == "Arab":
        return True
    return before >= "\u203c" and after >= "\u203c" and unicodedata.category(after) == "So"


def _spaces(text: str) -> Iterator[Piece]:
    for found in _SPACES.finditer(text):
        yield Piece(found.start(), found.end(), " ")


def _old_forms(text: str) -> Iterator[Piece]:
    for found in _OLD_FORMS.finditer(text):
        yield Piece(found.start(), found.end(), _CHILLU[found.group(1)] if found.group(1) else "ৎ")


def _digits(text: str) -> Iterator[Piece]:
    for at, character in enumerate(text):
        if character > "\u007f" and (digit := unicodedata.decimal(character, None)) is not None:
            yield Piece(at, at + 1, str(int(digit)))


def _urdu(text: str) -> Iterator[Piece]:
    for at, character in enumerate(text):
        if character in _URDU_LETTERS:
            yield Piece(at, at + 1, _URDU_LETTERS[character])
