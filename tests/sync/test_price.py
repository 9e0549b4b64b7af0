import json
from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.codec import INT_MAX
from sync.price import RATE_MAX, Line, PriceBook, cost, default_book, rate, rupees
from sync.record import Meter, Unit
from tests.support.usage import quantities

books = st.builds(
    PriceBook,
    version=st.text("abcdefghijklmnopqrstuvwxyz0123456789.- ", min_size=1, max_size=64),
    effective_ms=st.integers(0, INT_MAX),
    rates=st.dictionaries(
        st.sampled_from(Meter),
        st.dictionaries(st.sampled_from(Unit), st.integers(1, RATE_MAX)),
    ),
)


@given(books, st.sampled_from(Meter), quantities)
def test_costs_what_exact_fractions_say(book: PriceBook, meter: Meter, units: dict[Unit, int]) -> None:
    expected = sum(
        floor(Fraction(quantity) * book.rates.get(meter, {}).get(unit, 0) / 1000 + Fraction(1, 2))
        for unit, quantity in units.items()
    )
    assert cost(book, meter, units) == expected
    assert 0 <= cost(book, meter, units) <= INT_MAX
    lines = rate(book, meter, units)
    assert [line.unit for line in lines] == sorted(line.unit for line in lines)
    assert all(line.quantity == units[line.unit] > 0 for line in lines)


@given(books)
def test_a_book_is_its_canonical_json(book: PriceBook) -> None:
    data = book.to_json()
    again = PriceBook.from_json(data)
    assert (again, again.digest, again.to_json()) == (book, book.digest, data)
    spread = json.dumps(json.loads(data), indent=2, sort_keys=False).encode()
    assert PriceBook.from_json(spread).digest == book.digest


def test_the_default_book_is_what_the_documentation_says() -> None:
    book = default_book()
    assert book.digest.hex() == "f61c4ea61bae013bc91082c891075404fef6d546625fc50c15f0e45a7d859de0"
    used = {Unit.REQUESTS: 1, Unit.POINTS_IN: 1000, Unit.POINTS_OUT: 1000, Unit.TOKENS_IN: 9, Unit.TOKENS_OUT: 9}
    prices = {meter: [rupees(line.amount) for line in rate(book, meter, used)] for meter in Meter}
    assert prices == {
        Meter.CHAT: ["0.01", "0.04"],
        Meter.COMPLETION: ["0.01", "0.04"],
        Meter.EMBEDDING: ["0.004"],
        Meter.SEARCH: ["0.001", "0.006"],
    }


def test_half_a_micro_rupee_rounds_up_on_each_line() -> None:
    book = PriceBook("t", 0, {Meter.CHAT: {Unit.POINTS_IN: 499, Unit.POINTS_OUT: 500}})
    lines = rate(book, Meter.CHAT, {Unit.POINTS_OUT: 1, Unit.POINTS_IN: 1, Unit.IMAGES: 5})
    assert lines == (Line(Unit.POINTS_IN, 1, 499, 0), Line(Unit.POINTS_OUT, 1, 500, 1))


@given(st.integers(-(2**70), 2**70))
def test_rupees_are_exact(micro: int) -> None:
    shown = rupees(micro)
    assert Decimal(shown) * 1_000_000 == micro
    assert len(shown.split(".")[1]) >= 2
    assert not shown.split(".")[1][2:].endswith("0")


@pytest.mark.parametrize(
    ("micro", "shown"), [(0, "0.00"), (1_234_500, "1.2345"), (-1, "-0.000001"), (1_500_000, "1.50"), (10, "0.00001")]
)
def test_rupees(micro: int, shown: str) -> None:
    assert rupees(micro) == shown


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "price book: "),
        (b"\xff", "price book: "),
        (b"[]", "book: must be an object"),
        (b"{}", "book.effective_ms: missing"),
        (b'{"effective_ms":0,"rates":{},"version":"1","extra":1}', "book.extra: unknown"),
        (b'{"effective_ms":0,"effective_ms":0,"rates":{},"version":"1"}', "twice"),
        (b'{"effective_ms":0.5,"rates":{},"version":"1"}', "effective_ms: must be an integer"),
        (b'{"effective_ms":0,"rates":{},"version":1}', "version: must be text"),
        (b'{"effective_ms":0,"rates":{},"version":"\\ud800"}', "version: must be 1 to 64 printable ASCII"),
        (b'{"effective_ms":0,"rates":[],"version":"1"}', "rates: must be an object"),
        (b'{"effective_ms":0,"rates":{"chats":{}},"version":"1"}', "rates.chats: unknown"),
        (b'{"effective_ms":0,"rates":{"chat":{"words":1}},"version":"1"}', "rates.chat.words: unknown"),
        (b'{"effective_ms":0,"rates":{"chat":{"images":0}},"version":"1"}', "rates.chat.images: must be between 1"),
        (b'{"effective_ms":0,"rates":{"chat":{"images":NaN}},"version":"1"}', "rates.chat.images: must be an integer"),
        (b'{"effective_ms":0,"rates":{"chat":{"images":true}},"version":"1"}', "rates.chat.images: must be an integer"),
        (b"[" * 16_000, "nested too deep"),
        (b" " * 20_000, "20000 bytes, at most"),
    ],
)
def test_refuses_a_bad_book_by_field(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        PriceBook.from_json(data)


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        (b'{"chat":{"tokens_out":5}}', "rates.chat.tokens_out: tokens are never billed"),
        (b'{"search":{"points_in":5,"tokens_in":5}}', "rates.search.tokens_in"),
    ],
)
def test_a_book_that_rates_tokens_is_read_but_not_taken_as_a_new_one(rates: bytes, named: str) -> None:
    book = PriceBook.from_json(b'{"effective_ms":0,"rates":' + rates + b',"version":"1"}')
    with pytest.raises(ValueError, match=named):
        book.check_new()
    default_book().check_new()
