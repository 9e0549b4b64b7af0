"""The price books of the node: every one that ever was in force stays known, for records name theirs by its hash."""

from sync.node.database import Connection
from sync.node.errors import NodeError
from sync.node.settings import Settings
from sync.price import PriceBook, default_book


def load(settings: Settings) -> PriceBook:
    """The book of NUKKAD_NODE_PRICES, else the one that comes with Nukkad. Raises NodeError."""
    if settings.prices is None:
        return default_book()
    try:
        return PriceBook.from_json(settings.prices.read_bytes())
    except (OSError, ValueError) as error:
        raise NodeError(f"NUKKAD_NODE_PRICES: {settings.prices}: {error}") from None


def store(connection: Connection, book: PriceBook, now_ms: int) -> None:
    """Idempotent."""
    connection.execute(
        "insert into price_books values (%s, %s, %s, %s) on conflict do nothing",
        (book.digest, book.effective_ms, now_ms, book.to_json()),
    )


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
