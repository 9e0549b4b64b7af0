"""Time as a parameter: whoever needs it is given a Clock, so that tests hold it in their hand."""

import time
from typing import Protocol


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
