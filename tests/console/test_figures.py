"""Money, counts and moments as people in India read them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.console.figures import ago, grouped, moment, money, share
from appliance.console.words import Words

EN, HI = Words("en"), Words("hi")


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ("0.00", "₹0.00"),
        ("0.000096", "under 1 paisa"),
        ("0.01", "₹0.01"),
        ("0.995", "₹1.00"),
        ("499.849", "₹499.85"),
        ("123456.7", "₹1,23,456.70"),
        ("12345678.00", "₹1,23,45,678.00"),
    ],
)
def test_money(exact: str, shown: str) -> None:
    assert money(exact, EN) == shown


@given(st.integers(0, 10**15))
def test_grouping_keeps_the_number_and_its_places(number: int) -> None:
    shown = grouped(number)
    assert shown.replace(",", "") == str(number)
    head, *tail = shown.split(",")
    assert 1 <= len(head) <= 3
    assert [len(part) for part in tail] == [2] * (len(tail) - 1) + [3] * bool(tail)


@pytest.mark.parametrize(
    ("part", "whole", "per_cent"), [("0", "0", 0), ("5", "20", 25), ("30", "20", 100), ("-1", "20", 0)]
)
def test_share(part: str, whole: str, per_cent: int) -> None:
    assert share(part, whole) == per_cent


def test_a_moment_is_told_in_india_s_time() -> None:
    assert moment("2026-11-23T20:15:00+00:00", EN) == "24 Nov, 01:45"
    assert moment("2026-11-23T20:15:00+00:00", HI) == "24 नवंबर, 01:45"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-90, "just now"), (0, "just now"), (59, "just now"), (60, "1 min ago"), (3599, "59 min ago"), (3600, "1 h ago")],
)
def test_how_long_ago(seconds: int, shown: str) -> None:
    then = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    now_ms = int((then.timestamp() + seconds) * 1000)
    assert ago(then.isoformat(), now_ms, EN) == shown


def test_after_a_day_the_moment_itself_is_told() -> None:
    then = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    assert ago(then.isoformat(), int((then.timestamp() + 86_400) * 1000), EN) == "23 Nov, 11:30"
