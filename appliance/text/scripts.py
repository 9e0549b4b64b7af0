"""Which script a text is written in, by Unicode ranges; codes are ISO 15924."""

from bisect import bisect_right
from collections import Counter

# First and last code point of each range that matters on an Indian street; sorted. Dandas are shared by many scripts
# and belong to none.
_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x005A, "Latn"),
    (0x0061, 0x007A, "Latn"),
    (0x00C0, 0x024F, "Latn"),
    (0x0600, 0x06FF, "Arab"),
    (0x0750, 0x077F, "Arab"),
    (0x0900, 0x0963, "Deva"),
    (0x0966, 0x097F, "Deva"),
    (0x0980, 0x09FF, "Beng"),
    (0x0A00, 0x0A7F, "Guru"),
    (0x0A80, 0x0AFF, "Gujr"),
    (0x0B00, 0x0B7F, "Orya"),
    (0x0B80, 0x0BFF, "Taml"),
    (0x0C00, 0x0C7F, "Telu"),
    (0x0C80, 0x0CFF, "Knda"),
    (0x0D00, 0x0D7F, "Mlym"),
    (0x0D80, 0x0DFF, "Sinh"),
    (0x1C50, 0x1C7F, "Olck"),
    (0x1E00, 0x1EFF, "Latn"),
    (0xA8E0, 0xA8FF, "Deva"),
    (0xAAE0, 0xAAFF, "Mtei"),
    (0xABC0, 0xABFF, "Mtei"),
    (0xFB50, 0xFDFF, "Arab"),
    (0xFE70, 0xFEFE, "Arab"),
)
_FIRSTS = tuple(first for first, _, _ in _RANGES)


def script_of(character: str) -> str | None:
    """Script of one code point, None for what belongs to no script of the table (spaces, ASCII digits, signs)."""
    point = ord(character)
    at = bisect_right(_FIRSTS, point) - 1
    if at < 0:
        return None
    _, last, script = _RANGES[at]
    return script if point <= last else None


def script_shares(text: str) -> dict[str, float]:
    """Share of each script among the code points that have one, largest first; empty where none has."""
    counts = Counter(script for script in map(script_of, text) if script is not None)
    total = counts.total()
    return {script: count / total for script, count in counts.most_common()}


def main_script(text: str) -> str | None:
    """The script most of the text is written in; None where nothing has a script."""
    return next(iter(script_shares(text)), None)
