"""Drafts and records to test with: fixed ones by hand, any by Hypothesis."""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from sync.clock import Clock
from sync.codec import INT_MAX
from sync.errors import LedgerUnavailable
from sync.ledger import Ledger
from sync.price import default_book
from sync.record import QUANTITY_MAX, Draft, Meter, Outcome, Record, Unit
from tests.support.held_clock import HeldClock

DEVICE = bytes(range(16))
BOOK = default_book()

quantities = st.dictionaries(st.sampled_from(Unit), st.integers(0, QUANTITY_MAX))
_whole = st.integers(0, INT_MAX)
drafts = st.builds(
    Draft,
    key_id=_whole,
    meter=st.sampled_from(Meter),
    model=st.binary(min_size=32, max_size=32),
    units=quantities,
    outcome=st.sampled_from(Outcome),
    lease=st.binary(min_size=16, max_size=16),
    price_book=st.binary(min_size=32, max_size=32),
    request_id=st.binary(min_size=16, max_size=16),
)
records = st.builds(
    Record,
    device=st.binary(min_size=16, max_size=16),
    epoch=st.integers(1, INT_MAX),
    seq=st.integers(1, INT_MAX),
    boot=st.binary(min_size=16, max_size=16),
    monotonic_ns=_whole,
    wall_ms=_whole,
    draft=drafts,
)


def make_draft(
    request_id: bytes | None = None, *, units: Mapping[Unit, int] | None = None, key_id: int = 1, **changes: Any
) -> Draft:
    """A chat of 1,000 code points in and 100 out under the default price book: ₹0.014."""
    fields: dict[str, Any] = {
        "key_id": key_id,
        "meter": Meter.CHAT,
        "model": b"m" * 32,
        "units": dict(units or {Unit.REQUESTS: 1, Unit.POINTS_IN: 1000, Unit.POINTS_OUT: 100, Unit.TOKENS_IN: 321}),
        "outcome": Outcome.COMPLETED,
        "lease": b"l" * 16,
        "price_book": BOOK.digest,
        "request_id": request_id or secrets.token_bytes(16),
    }
    return Draft(**{**fields, **changes})


def make_record(seq: int = 1, **changes: Any) -> Record:
    return Record(DEVICE, 1, seq, b"b" * 16, 5, 1_790_000_000_000, make_draft(**changes))


def open_ledger(path: Path, clock: Clock | None = None, **options: Any) -> Ledger:
    """A ledger that holds the default price book."""
    ledger = Ledger(path, DEVICE, 1, b"b" * 16, clock or HeldClock(), **options)
    try:
        ledger.store_price_book(BOOK).result()
    except LedgerUnavailable:
        close(ledger)
        raise
    return ledger


def close(ledger: Ledger) -> None:
    """Closes a ledger whose disk is dead: a file system in Python tells of what SQLite itself would pass over."""
    with suppress(LedgerUnavailable):
        ledger.close()


def append(ledger: Ledger, count: int, **changes: Any) -> list[Record]:
    """Records `count` calls together."""
    return [future.result() for future in [ledger.append(make_draft(**changes)) for _ in range(count)]]
