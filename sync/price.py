"""Price book and rating: a pure function from what was used to micro-rupees, the same on box and node.

It stands beside `record` and not in `sync.node` because the box shows the exact cost of every answer, also unplugged.
1 rupee = 1,000,000 micro-rupees; 1 paisa = 10,000 micro-rupees.

The default book (default_prices.json) bills text by Unicode code points after NFC, in and out apart, because every
reader can count them and they do not change with the tokenizer; tokens are on the record for information and free.
Per 1,000 code points: chat and completion ₹0.010 in and ₹0.040 out, embedding ₹0.004 in, search ₹0.006 in;
and ₹0.001 a search.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Any

from sync import codec
from sync.record import QUANTITY_MAX, Meter, Unit

FREE = (Unit.TOKENS_IN, Unit.TOKENS_OUT)  # for information: a language must not cost more by its tokenizer
BOOK_BYTES_MAX = 16 * 1024
RATE_MAX = 10**12  # ₹1,000 a unit
MICRO_PER_RUPEE = 1_000_000
MICRO_PER_PAISA = 10_000


@dataclass(frozen=True)
class PriceBook:
    """`rates[meter][unit]` is micro-rupees per 1,000 units, 1 … RATE_MAX; a unit without a rate is free.

    Tokens have none in a new book (`check_new`): calls are paid for in advance by their other units alone.
    """

    version: str
    effective_ms: int
    rates: Mapping[Meter, Mapping[Unit, int]]

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8. Its sha256 is the book's hash."""
        rates = {
            meter.name.lower(): {unit.name.lower(): rate for unit, rate in units.items()}
            for meter, units in self.rates.items()
        }
        book = {"version": self.version, "effective_ms": self.effective_ms, "rates": rates}
        return json.dumps(book, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def digest(self) -> bytes:
        return sha256(self.to_json()).digest()

    def check_new(self) -> None:
        """Raises ValueError naming the field if the book rates tokens: one kept from before is read, none comes in."""
        for meter, rates in self.rates.items():
            for unit in FREE:
                if unit in rates:
                    raise ValueError(
                        f"price book: rates.{meter.name.lower()}.{unit.name.lower()}: tokens are never billed"
                    )

    @staticmethod
    def from_json(data: bytes) -> "PriceBook":
        """Takes any layout of spaces and keys, for people write these files. Raises ValueError naming the field."""
        if len(data) > BOOK_BYTES_MAX:
            raise ValueError(f"price book: {len(data)} bytes, at most {BOOK_BYTES_MAX} allowed")
        try:
            book = _object("book", json.loads(data, object_pairs_hook=_unique), ("effective_ms", "rates", "version"))
            version = codec.text("version", book["version"], most=64)
            effective_ms = codec.whole("effective_ms", book["effective_ms"])
            meters = _object("rates", book["rates"], (), (meter.name.lower() for meter in Meter))
            return PriceBook(
                version, effective_ms, {Meter[name.upper()]: _rates(name, meters[name]) for name in meters}
            )
        except RecursionError:
            raise ValueError("price book: nested too deep") from None
        except ValueError as error:
            raise ValueError(f"price book: {error}") from error


def default_book() -> PriceBook:
    """The book that comes with Nukkad; the node's operator may issue another."""
    return PriceBook.from_json(files("sync").joinpath("default_prices.json").read_bytes())


@dataclass(frozen=True)
class Line:
    unit: Unit
    quantity: int
    rate: int  # micro-rupees per 1,000 units
    amount: int  # micro-rupees


def rate(book: PriceBook, meter: Meter, units: Mapping[Unit, int]) -> tuple[Line, ...]:
    """One line per billable unit used, in order of unit; each amount is rounded half up to a micro-rupee."""
    rates = book.rates.get(meter, {})
    return tuple(
        Line(unit, units[unit], rates[unit], (units[unit] * rates[unit] + 500) // 1000)
        for unit in sorted(units)
        if unit in rates and units[unit]
    )


def cost(book: PriceBook, meter: Meter, units: Mapping[Unit, int]) -> int:
    """Sum of the rated lines, in micro-rupees. Fits 64 bits whatever a valid record and a valid book hold."""
    return sum(line.amount for line in rate(book, meter, units))


assert QUANTITY_MAX * RATE_MAX // 1000 * len(Unit) <= codec.INT_MAX


def rupees(micro: int) -> str:
    """Exact decimal rupees without a float: 1234500 → '1.2345'; 0 → '0.00'; at least two decimals."""
    whole, fraction = divmod(abs(micro), MICRO_PER_RUPEE)
    decimals = f"{fraction:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}{whole}.{decimals}"


def _rates(meter: str, value: object) -> dict[Unit, int]:
    rates = _object(f"rates.{meter}", value, (), (unit.name.lower() for unit in Unit))
    return {
        Unit[name.upper()]: codec.whole(f"rates.{meter}.{name}", rates[name], least=1, most=RATE_MAX) for name in rates
    }


def _object(name: str, value: object, needed: tuple[str, ...], known: Iterable[str] = ()) -> dict[str, Any]:
    """`value` as an object with every `needed` key and none beyond `known`."""
    if not isinstance(value, dict):
        raise ValueError(f"{name}: must be an object")
    for key in needed:
        if key not in value:
            raise ValueError(f"{name}.{key}: missing")
    if unknown := value.keys() - {*needed, *known}:
        raise ValueError(f"{name}.{min(unknown)}: unknown")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return seen
