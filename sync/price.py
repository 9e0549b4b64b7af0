"""Price book and rating: a pure function from what was used to micro-rupees, the same on box and node.

It stands beside `record` and not in `sync.node` because the box shows the exact cost of every answer, also unplugged.
1 rupee = 1,000,000 micro-rupees; 1 paisa = 10,000 micro-rupees.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sync.record import Meter, Unit


@dataclass(frozen=True)
class PriceBook:
    """`rates[meter][unit]` is micro-rupees per 1,000 units; a unit without a rate is free."""

    version: str
    effective_ms: int
    rates: Mapping[Meter, Mapping[Unit, int]]

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Its sha256 is the book's hash."""
        raise NotImplementedError

    @property
    def digest(self) -> bytes:
        raise NotImplementedError

    @staticmethod
    def from_json(data: bytes) -> "PriceBook":
        """Raises ValueError naming the field."""
        raise NotImplementedError


@dataclass(frozen=True)
class Line:
    unit: Unit
    quantity: int
    rate: int  # micro-rupees per 1,000 units
    amount: int  # micro-rupees


def rate(book: PriceBook, meter: Meter, units: Mapping[Unit, int]) -> tuple[Line, ...]:
    """One line per billable unit used, in order of unit; each amount is rounded half up to a micro-rupee."""
    raise NotImplementedError


def cost(book: PriceBook, meter: Meter, units: Mapping[Unit, int]) -> int:
    """Sum of the rated lines, in micro-rupees."""
    return sum(line.amount for line in rate(book, meter, units))


def rupees(micro: int) -> str:
    """Exact decimal rupees without a float: 1234500 → '1.2345'; 0 → '0.00'; at least two decimals."""
    raise NotImplementedError
