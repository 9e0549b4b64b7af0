"""API keys: 256 random bits behind a prefix, kept only as SHA-256, so that the database gives no key away.

A plain hash is enough because a key is random; a slow one is for what people choose.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import apsw

from sync.clock import Clock

PREFIX = "nk_"
NAME_MAX = 64
KEYS_MAX = 10_000


class KeyRefused(Exception):
    """A key cannot be made or revoked; the message says why and what to do."""


@dataclass(frozen=True)
class Key:
    """What may be shown of a key. `hint` is its beginning, enough to tell keys apart."""

    id: int
    name: str
    hint: str
    created_ms: int
    revoked_ms: int | None

    def shown(self) -> dict[str, Any]:
        """JSON-ready; times in ISO 8601 UTC."""
        revoked = None if self.revoked_ms is None else _time(self.revoked_ms)
        return {
            "id": self.id,
            "name": self.name,
            "hint": self.hint,
            "created": _time(self.created_ms),
            "revoked": revoked,
        }


class Keys:
    def __init__(
        self, database: apsw.Connection, clock: Clock, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._database = database
        self._clock = clock
        self._random_bytes = random_bytes

    def create(self, name: str) -> tuple[Key, str]:
        """A new key and its secret, which is told this once. Names need not be unique. Raises KeyRefused."""
        if not name.strip() or len(name) > NAME_MAX or not name.isprintable():
            raise KeyRefused(f"name: give 1 to {NAME_MAX} printable characters")
        secret = PREFIX + self._random_bytes(32).hex()
        with self._database:
            (count,) = self._one("SELECT count(*) FROM keys")
            if count >= KEYS_MAX:
                raise KeyRefused(f"this box has {KEYS_MAX} keys already; use one of them")
            row = self._one(
                "INSERT INTO keys (name, hint, digest, created_ms) VALUES (?, ?, ?, ?)"
                " RETURNING id, name, hint, created_ms, revoked_ms",
                name,
                secret[: len(PREFIX) + 6],
                _digest(secret),
                self._clock.wall_ms(),
            )
        return Key(*row), secret

    def revoke(self, key_id: int) -> Key:
        """From the next request on the key opens nothing; idempotent, the first moment stands. Raises KeyRefused."""
        with self._database:
            row = self._database.execute(
                "UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?"
                " RETURNING id, name, hint, created_ms, revoked_ms",
                (self._clock.wall_ms(), key_id),
            ).fetchone()
        if row is None:
            raise KeyRefused(f"no key has the id {key_id}; `nukkad keys list` shows them")
        return Key(*row)

    def all(self) -> list[Key]:
        rows = self._database.execute("SELECT id, name, hint, created_ms, revoked_ms FROM keys ORDER BY id")
        return [Key(*row) for row in rows]

    def find(self, secret: str) -> Key | None:
        """The key that this secret opens, unless revoked."""
        digest = _digest(secret)
        row = self._database.execute(
            "SELECT digest, id, name, hint, created_ms, revoked_ms FROM keys WHERE digest = ? AND revoked_ms IS NULL",
            (digest,),
        ).fetchone()
        if row is None or not hmac.compare_digest(row[0], digest):
            return None
        return Key(*row[1:])

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self._database.execute(sql, values).fetchone()
        assert row is not None
        return row


def _time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="seconds")


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
