"""Time as a parameter: whoever needs it is given a Clock, so that tests hold it in their hand.

A day of a bill is a day in India, 5 h 30 min ahead of UTC's, on box and node.
"""

import time
from datetime import date, timedelta, timezone
from typing import Protocol

INDIA = timezone(timedelta(hours=5, minutes=30))
INDIA_MS, DAY_MS = 19_800_000, 86_400_000
_DAY_ZERO = date(1970, 1, 1)


class Clock(Protocol):
    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, as the machine believes; may jump either way."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment of this boot; never goes back."""
        ...


class SystemClock:
    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


def day_number(wall_ms: int) -> int:
    """Days since 1970 in India."""
    return (wall_ms + INDIA_MS) // DAY_MS


def day_of_number(number: int) -> date:
    return _DAY_ZERO + timedelta(days=number)


def number_of_day(day: date) -> int:
    return (day - _DAY_ZERO).days


def day_in_india(wall_ms: int) -> date:
    return day_of_number(day_number(wall_ms))


def day_start_ms(day: date) -> int:
    """The moment of midnight in India."""
    return number_of_day(day) * DAY_MS - INDIA_MS
