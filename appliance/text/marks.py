"""Refuses heaps of combining marks: no language has them, and normalising them takes quadratic time."""

import re
from functools import cache
from unicodedata import combining

from pydantic import AfterValidator

MARKS_MAX = 64  # in a row; Unicode's stream-safe text has at most 30 (UAX #15)
LAST_MARK = 0x1FFFF  # no mark of Unicode 14 (Python 3.11) stands beyond


def check_marks(text: str) -> str:
    """The text itself. Raises ValueError for more than MARKS_MAX combining marks in a row."""
    if not text.isascii() and _heap().search(text):
        raise ValueError(f"more than {MARKS_MAX} combining marks in a row: that is no text of any language")
    return text


@cache
def _heap() -> re.Pattern[str]:
    marks = "".join(character for character in map(chr, range(LAST_MARK + 1)) if combining(character))
    return re.compile(f"[{re.escape(marks)}]{{{MARKS_MAX + 1}}}")


Marked = AfterValidator(check_marks)  # for a schema; stands last: what stands after it gives worse messages
