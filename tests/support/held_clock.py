"""A clock that goes only when a test says so."""

from dataclasses import dataclass


@dataclass
class HeldClock:
    now_ms: int = 1_790_000_000_000  # 21 September 2026, in India as in UTC
    since_boot_ns: int = 0

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_ns(self) -> int:
        return self.since_boot_ns

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        self.since_boot_ns += round(seconds * 1_000_000_000)
