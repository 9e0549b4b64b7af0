"""The node's settings: environment variables NUKKAD_NODE_*, read once into a frozen object."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sync.node.errors import NodeError

PAISE_MAX = 10_000_000  # ₹1 lakh: UPI's ordinary limit for a payment
# The handle belongs to nobody, so that no stranger is paid by a node whose operator set nothing.
PAYEE_UNSET = "nukkad-demo@invalid"

_VPA = re.compile(r"[A-Za-z0-9._-]{2,256}@[A-Za-z][A-Za-z0-9]{1,63}")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Settings:
    state: Path = Path(".nukkad/node")
    """NUKKAD_NODE_STATE: folder of the node's key, operator token and embedded database; mode 0700."""
    host: str = "127.0.0.1"
    """NUKKAD_NODE_HOST: address to listen on."""
    port: int = 8471
    """NUKKAD_NODE_PORT: port to listen on."""
    dsn: str | None = None
    """NUKKAD_NODE_DSN: PostgreSQL to use in production; unset: an embedded one in the state folder."""
    connections: int = 8
    """NUKKAD_NODE_CONNECTIONS: most database connections held at once."""
    allowance_paise: int = 2000
    """NUKKAD_NODE_ALLOWANCE_PAISE: emergency credit of a customer whose wallet is empty, in paise."""
    lease_hours: int = 72
    """NUKKAD_NODE_LEASE_HOURS: how long a box may serve without hearing from the node."""
    payee_vpa: str = PAYEE_UNSET
    """NUKKAD_NODE_PAYEE_VPA: UPI address that top-ups are paid to, such as shop@bank."""
    payee_name: str = "Nukkad"
    """NUKKAD_NODE_PAYEE_NAME: payee's name as the payer's app shows it."""
    prices: Path | None = None
    """NUKKAD_NODE_PRICES: JSON file of a price book; unset: the book that comes with Nukkad."""

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the node."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"http://{host}:{self.port}"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises NodeError naming the variable."""

    def read(name: str, default: _T, parse: Callable[[str], _T]) -> _T:
        text = environment.get(f"NUKKAD_NODE_{name}", "")
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise NodeError(f"NUKKAD_NODE_{name}: {error}") from None

    return Settings(
        state=read("STATE", Settings.state, Path),
        host=read("HOST", Settings.host, str),
        port=read("PORT", Settings.port, _whole(1, 65535)),
        dsn=read("DSN", Settings.dsn, str),
        connections=read("CONNECTIONS", Settings.connections, _whole(2, 200)),
        allowance_paise=read("ALLOWANCE_PAISE", Settings.allowance_paise, _whole(0, PAISE_MAX)),
        lease_hours=read("LEASE_HOURS", Settings.lease_hours, _whole(1, 24 * 90)),
        payee_vpa=read("PAYEE_VPA", Settings.payee_vpa, _vpa),
        payee_name=read("PAYEE_NAME", Settings.payee_name, _payee_name),
        prices=read("PRICES", Settings.prices, Path),
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


def _vpa(text: str) -> str:
    if not _VPA.fullmatch(text):
        raise ValueError(f"must be a UPI address like shop@bank, not {text!r}")
    return text


def _payee_name(text: str) -> str:
    if not 1 <= len(text) <= 99 or not text.isprintable():
        raise ValueError("must be 1 to 99 printable characters")
    return text
