"""Words of a text as a search index wants them: e-mail and UPI addresses and numbers whole, words of any script.

Why not the tokenizer of a model: subwords split on matras, and a shopkeeper's `abc@upi` must be found as one thing.
"""

import re
import unicodedata
from dataclasses import dataclass

from appliance.text.normalise import normalise

# Signs that belong to words and that `\w` leaves out: matras, viramas, nuktas, joiners, Arabic points. No dandas.
_SIGNS = (
    "\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7-\u06ed"
    "\u0900-\u0963\u0971-\u097f\u0980-\u09f1\u0a01-\u0a75\u0a81-\u0aef\u0af9-\u0b77\u0b82-\u0bef\u0c00-\u0c7f"
    "\u0c80-\u0cf3\u0d00-\u0df3\u1c50-\u1c7d\u1cd0-\u1cf9\ua8e0-\ua8ff\uaae0-\uaaf6\uabc0-\uabed\u200c\u200d"
)
_TOKEN = re.compile(
    r"(?P<address>[A-Za-z0-9][\w.+-]*@[A-Za-z0-9][A-Za-z0-9.-]*[A-Za-z0-9])"
    r"|(?P<link>https?://[^\s<>\"]+[\w/])"
    r"|(?P<number>[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?)"
    rf"|(?P<word>(?:[^\W\d_]|[{_SIGNS}])+)"
)
# Spelling that differs from writer to writer within one language and that a search must not trip over.
_FOLDED = {
    "\u200c": None,
    "\u200d": None,
    "\u093c": None,  # nukta: ज़रूरत and जरूरत
    "\u0901": "\u0902",  # chandrabindu: हाँ and हां
    "\u0931": "\u0930",  # ऱ and ऱ's plain letter
    "\u0929": "\u0928",
    "\u0934": "\u0933",
    "\u0981": "\u0982",
    "\u0a01": "\u0a02",
    "\u0a81": "\u0a82",
    "\u0b01": "\u0b02",
    "\u0c01": "\u0c02",
}
_FOLDING = str.maketrans(_FOLDED)


@dataclass(frozen=True)
class Token:
    """`word` is what an index compares; [start, end) is its place in the text as it was given."""

    word: str
    start: int
    end: int


def tokenise(text: str, language: str | None = None) -> tuple[Token, ...]:
    """Words of `text` in order: normalised, without case, digits of every script as ASCII, numbers without grouping
    (`१,००,०००` is `100000`). Punctuation is left out; `language` as in `normalise`."""
    normalised = normalise(text, language)
    tokens = []
    for found in _TOKEN.finditer(normalised.text):
        word = found.group().replace(",", "") if found.lastgroup == "number" else fold(found.group())
        if word and any(unicodedata.category(c)[0] != "M" for c in word):
            tokens.append(Token(word, *normalised.map.span(*found.span())))
    return tuple(tokens)


def fold(word: str) -> str:
    """One key for the spellings of a word: no case, no joiners, no nukta in Devanagari, chandrabindu as anusvara."""
    return word.casefold().translate(_FOLDING)
