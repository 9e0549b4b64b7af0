from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

from sync.clock import (
    INDIA,
    SystemClock,
    day_in_india,
    day_number,
    day_of_number,
    day_start_ms,
    number_of_day,
)


def test_tells_milliseconds_since_1970_and_never_goes_back() -> None:
    clock = SystemClock()
    assert datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).year >= 2025
    readings = [clock.monotonic_ns() for _ in range(1000)]
    assert readings == sorted(readings)


def test_a_day_begins_at_midnight_in_india() -> None:
    midnight = int(datetime(2026, 9, 23, tzinfo=ZoneInfo("Asia/Kolkata")).timestamp()) * 1000
    assert day_start_ms(date(2026, 9, 23)) == midnight
    assert (day_in_india(midnight - 1), day_in_india(midnight)) == (date(2026, 9, 22), date(2026, 9, 23))
    assert day_of_number(day_number(midnight)) == date(2026, 9, 23)
    assert number_of_day(date(2026, 9, 23)) == day_number(midnight)
    assert datetime.fromtimestamp(midnight / 1000, INDIA).isoformat() == "2026-09-23T00:00:00+05:30"
