"""Money, counts and moments as people in India read them."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

from appliance.console.words import Words
from sync.clock import INDIA

PAISA = Decimal("0.01")


def money(rupees: str, words: Words) -> str:
    """`rupees` is an exact decimal; shown to the paisa. Less than one is said in words, for it is not nothing."""
    exact = Decimal(rupees)
    if 0 < exact < PAISA:
        return words("under_paisa")
    whole, _, places = f"{exact.quantize(PAISA, ROUND_HALF_UP):f}".partition(".")
    return f"₹{grouped(int(whole))}.{places}"


def grouped(number: int) -> str:
    """1234567 → 12,34,567."""
    digits = str(number)
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)]
    return ",".join([*reversed(pairs), tail])


def share(part: str, whole: str) -> int:
    """Per cent, 0 to 100; 0 of nothing."""
    total = Decimal(whole)
    return min(100, max(0, int(100 * Decimal(part) / total))) if total > 0 else 0


def moment(iso: str, words: Words) -> str:
    """Day and time in India of an ISO 8601 time."""
    then = datetime.fromisoformat(iso).astimezone(INDIA)
    return words("moment", day=then.day, month=words.months[then.month - 1], time=f"{then:%H:%M}")


def ago(iso: str, now_ms: int, words: Words) -> str:
    """How long ago, in minutes or hours; the moment itself when it is more than a day."""
    then = datetime.fromisoformat(iso)
    minutes = int((datetime.fromtimestamp(now_ms / 1000, UTC) - then).total_seconds() // 60)
    if minutes < 1:
        return words("just_now")
    if minutes < 60:
        return words("minutes_ago", count=minutes)
    if minutes < 24 * 60:
        return words("hours_ago", count=minutes // 60)
    return moment(iso, words)
