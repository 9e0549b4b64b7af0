"""One-time enrolment codes: shown once, stored as a hash, good for 15 minutes and five tries.

A code is `ABCD-EFGHJ-KMNPQ`: four letters that find its row and ten that prove it (50 bits).
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from psycopg.rows import class_row

from sync.node.database import Connection
from sync.node.errors import Refusal

LIFE_MS = 15 * 60 * 1000
TRIES_MAX = 5
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: nothing that looks like something else
_LOOKALIKES = str.maketrans("OIL", "011")


@dataclass(frozen=True)
class Code:
    selector: str
    hash: bytes
    customer: str
    expires_ms: int
    tries: int
    device: bytes | None
    epoch: int | None


def letters(count: int, random: Callable[[int], bytes]) -> str:
    """That many of 32 letters and digits, each of 5 unpredictable bits."""
    return "".join(_LETTERS[byte & 31] for byte in random(count))


def issue(connection: Connection, customer: str, now_ms: int, random: Callable[[int], bytes]) -> str:
    connection.execute("delete from codes where expires_ms < %s", (now_ms - 24 * 3600 * 1000,))
    while True:
        selector, secret = letters(4, random), letters(10, random)
        made = connection.execute(
            "insert into codes (selector, hash, customer, expires_ms) values (%s, %s, %s, %s) on conflict do nothing",
            (selector, _hash(selector, secret), customer, now_ms + LIFE_MS),
        )
        if made.rowcount:
            return f"{selector}-{secret[:5]}-{secret[5:]}"


def check(connection: Connection, text: str, now_ms: int) -> Code | Refusal:
    """The code's row, locked, or why not: returned, for a wrong try counts only when the caller commits."""
    plain = text.upper().replace("-", "").replace(" ", "").translate(_LOOKALIKES)
    if len(plain) != 14 or not set(plain) <= set(_LETTERS):
        return _bad()
    with connection.cursor(row_factory=class_row(Code)) as cursor:
        code = cursor.execute(
            "select selector, hash, customer, expires_ms, tries, device, epoch from codes"
            " where selector = %s for update",
            (plain[:4],),
        ).fetchone()
    if code is None or code.tries >= TRIES_MAX:
        return _bad()
    if not hmac.compare_digest(code.hash, _hash(plain[:4], plain[4:])):
        connection.execute("update codes set tries = tries + 1 where selector = %s", (code.selector,))
        return _bad()
    if code.device is None and now_ms > code.expires_ms:
        return _bad()
    return code


def use(connection: Connection, code: Code, device: bytes, epoch: int) -> None:
    connection.execute("update codes set device = %s, epoch = %s where selector = %s", (device, epoch, code.selector))


def _hash(selector: str, secret: str) -> bytes:
    return sha256(f"nukkad enrolment code v1\0{selector}{secret}".encode()).digest()


def _bad() -> Refusal:
    """One answer for every reason, so that guessing learns nothing."""
    return Refusal(
        401, "bad_code", "code: wrong, used or expired; ask for a new one (`nukkad node enrol CUSTOMER` on the node)"
    )
