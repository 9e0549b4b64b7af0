"""Heaps of marks are refused in one pass; every script's own marks are not."""

import sys
from unicodedata import combining

import pytest

from appliance.text.marks import LAST_MARK, MARKS_MAX, check_marks
from appliance.text.points import count_points


@pytest.mark.parametrize("mark", ["\u0301", "\u0323", "\u094d", "\u0bcd", "\U0001d165"])
def test_a_heap_is_refused_and_what_people_write_is_not(mark: str) -> None:
    assert check_marks("क" + mark * MARKS_MAX + "क" + mark) == "क" + mark * MARKS_MAX + "क" + mark
    with pytest.raises(ValueError, match="combining marks"):
        check_marks("a" * 1000 + mark * (MARKS_MAX + 1))


def test_marks_may_alternate_and_still_are_a_heap() -> None:
    with pytest.raises(ValueError, match="combining marks"):
        check_marks("a" + "\u0301\u0323" * MARKS_MAX)


def test_no_mark_stands_beyond_those_looked_for() -> None:
    assert not any(combining(chr(number)) for number in range(LAST_MARK + 1, sys.maxunicode + 1))


def test_what_passes_is_counted_in_its_own_time() -> None:
    """4 million code points with as many marks as are let through; a heap of as many would take hours."""
    text = ("a" + "\u0301" * (MARKS_MAX // 2) + "\u0323" * (MARKS_MAX // 2)) * 60_000
    assert count_points(check_marks(text)) > 0
