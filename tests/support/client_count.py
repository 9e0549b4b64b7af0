"""What a caller counts from its own side: code points it sent and got, and what the published prices make of them.

Written apart from sync.price on purpose: exact fractions, rounded half up where the price page says so.
"""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any


def points(text: str) -> int:
    return len(unicodedata.normalize("NFC", text))


@dataclass
class ClientCount:
    """`rates` as `nukkad node prices --json` prints them: micro-rupees per 1,000 units, by meter and unit."""

    rates: dict[str, dict[str, int]]
    units: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: int = 0
    cost: int = 0  # micro-rupees

    def add(self, meter: str, **units: int) -> None:
        """One billed call."""
        self.calls += 1
        for unit, quantity in units.items():
            self.units[meter, unit] += quantity
            self.cost += floor(Fraction(quantity * self.rates[meter].get(unit, 0), 1000) + Fraction(1, 2))

    def add_record(self, record: dict[str, Any]) -> None:
        """A call whose connection broke: what the box says when it is asked by the request's id."""
        self.add(record["meter"], **{unit: n for unit, n in record["units"].items() if not unit.startswith("tokens")})


def counted(rows: list[tuple[str, str, int]]) -> Counter[tuple[str, str]]:
    """(meter, unit, quantity) rows of the box or the node, without tokens, which a caller does not count."""
    found: Counter[tuple[str, str]] = Counter()
    for meter, unit, quantity in rows:
        if not unit.startswith("tokens"):
            found[meter, unit] += quantity
    return found
