"""The price books of the node: every one that ever was in force stays known, for records name theirs by its hash."""

from datetime import datetime

from sync.clock import INDIA
from sync.node.database import Connection
from sync.node.errors import NodeError
from sync.node.settings import Settings
from sync.price import PriceBook, default_book

EFFECTIVE_MS_MAX = 32_503_680_000_000  # the year 3000


def load(settings: Settings) -> PriceBook:
    """The book of NUKKAD_NODE_PRICES, else the one that comes with Nukkad. Raises NodeError."""
    if settings.prices is None:
        return default_book()
    try:
        book = PriceBook.from_json(settings.prices.read_bytes())
        book.check_new()
        if book.effective_ms > EFFECTIVE_MS_MAX:
            raise ValueError(f"price book: effective_ms: {book.effective_ms} is beyond the year 3000; is it in ms?")
    except (OSError, ValueError) as error:
        raise NodeError(f"NUKKAD_NODE_PRICES: {settings.prices}: {error}") from None
    return book


def store(connection: Connection, book: PriceBook, now_ms: int) -> None:
    """Idempotent."""
    connection.execute(
        "insert into price_books values (%s, %s, %s, %s) on conflict do nothing",
        (book.digest, book.effective_ms, now_ms, book.to_json()),
    )


def update(connection: Connection, settings: Settings, now_ms: int) -> str:
    """Stores the settings' book and says which is in force. Raises NodeError for a named file that never would be."""
    book = load(settings)
    store(connection, book, now_ms)
    current = in_force(connection, now_ms)
    said = f"price book {current.version} is in force since {_moment(current)}"
    if book == current:
        return said
    if book.effective_ms > now_ms:
        return f"{said}; {book.version} follows on {_moment(book)}"
    if settings.prices is not None:
        raise NodeError(
            f"NUKKAD_NODE_PRICES: {settings.prices}: the book {book.version} of {_moment(book)} would change nothing,"
            f" for {said}: give it a later effective_ms, now being {now_ms}, or unset the variable"
        )
    return f"{said}, not {book.version}, which comes with Nukkad and is older"


def _moment(book: PriceBook) -> str:
    return datetime.fromtimestamp(book.effective_ms / 1000, INDIA).strftime("%Y-%m-%d %H:%M IST")


def in_force(connection: Connection, now_ms: int) -> PriceBook:
    """The book that came into force last. Raises NodeError when none has yet."""
    row = connection.execute(
        "select book from price_books where effective_ms <= %s order by effective_ms desc, stored_ms desc limit 1",
        (now_ms,),
    ).fetchone()
    if row is None:
        raise NodeError("no price book is in force yet: give one with an earlier effective_ms by NUKKAD_NODE_PRICES")
    return PriceBook.from_json(row[0])


def find(connection: Connection, hashes: set[bytes]) -> dict[bytes, PriceBook]:
    """The books of these hashes that are known."""
    rows = connection.execute("select hash, book from price_books where hash = any(%s)", (list(hashes),)).fetchall()
    return {hash: PriceBook.from_json(book) for hash, book in rows}
