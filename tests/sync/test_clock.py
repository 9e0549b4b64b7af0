from datetime import UTC, datetime

from sync.clock import SystemClock


def test_tells_milliseconds_since_1970_and_never_goes_back() -> None:
    clock = SystemClock()
    assert datetime.fromtimestamp(clock.wall_ms() / 1000, UTC).year >= 2025
    readings = [clock.monotonic_ns() for _ in range(1000)]
    assert readings == sorted(readings)
