"""The billable size of text: code points after NFC, nothing else.

Why not tokens, words, bytes or graphemes: tokens and bytes cost Indian languages up to 10 and 3.4 times the English
figure, words half of it, and the rule for graphemes changed with Unicode 15.1. Code points of NFC stay within 0.85–1.24
of English, and any caller can count them with one line of code in any programming language.
"""

from unicodedata import normalize


def count_points(text: str) -> int:
    """Number of Unicode code points of the NFC form of `text`; joiners and spaces count. Never negative, 0 for ''."""
    return len(normalize("NFC", text))
