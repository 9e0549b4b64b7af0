"""Everything about a node that an operator may choose, read once from the environment at start.

Each field is one variable: NUKKAD_NODE_ and the field's name in capitals; default, form and meaning beside it.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from sync.node.errors import NodeError
from sync.reach import local_url

PREFIX = "NUKKAD_NODE_"
OTHERS = {"NUKKAD_NODE_URL"}  # the box's: where its node is
PAISE_MAX = 10_000_000  # ₹1 lakh: UPI's ordinary limit for a payment
# The handle belongs to nobody, so that no stranger is paid by a node whose operator set nothing.
PAYEE_UNSET = "nukkad-demo@invalid"

_VPA = re.compile(r"[A-Za-z0-9._-]{2,256}@[A-Za-z][A-Za-z0-9]{1,63}")


class Setting(NamedTuple):
    """One variable, for help texts and the docs test."""

    name: str
    default: str
    meaning: str


def _choice(parse: Callable[[str], Any], meaning: str) -> dict[str, Any]:
    return {"parse": parse, "meaning": meaning}


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
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


@dataclass(frozen=True)
class Settings:
    state: Path = field(
        default=Path(".nukkad/node"),
        metadata=_choice(Path, "Folder of the node's key, operator token and embedded database; private (0700)."),
    )
    host: str = field(default="127.0.0.1", metadata=_choice(str, "Address to listen on."))
    port: int = field(default=8471, metadata=_choice(_whole(1, 65_535), "Port to listen on."))
    callers: int = field(
        default=256, metadata=_choice(_whole(1, 10_000), "Open connections of boxes and operators; more of them wait.")
    )
    header_s: int = field(
        default=10,
        metadata=_choice(_whole(1, 600), "Seconds a caller has to send a request's headers, and an idle connection."),
    )
    dsn: str | None = field(
        default=None,
        metadata=_choice(str, "PostgreSQL to use in production; unset: an embedded one in the state folder."),
    )
    connections: int = field(default=8, metadata=_choice(_whole(2, 200), "Database connections held at most."))
    allowance_paise: int = field(
        default=2000,
        metadata=_choice(_whole(0, PAISE_MAX), "Emergency credit of a customer whose wallet is empty, in paise."),
    )
    lease_hours: int = field(
        default=72, metadata=_choice(_whole(1, 24 * 90), "Hours a box may serve without hearing from the node.")
    )
    payee_vpa: str = field(
        default=PAYEE_UNSET, metadata=_choice(_vpa, "UPI address that top-ups are paid to, such as shop@bank.")
    )
    payee_name: str = field(
        default="Nukkad", metadata=_choice(_payee_name, "The payee's name as the payer's app shows it.")
    )
    prices: Path | None = field(
        default=None,
        metadata=_choice(Path, "JSON file of a price book; unset: the book that comes with Nukkad."),
    )

    @property
    def url(self) -> str:
        """Where a client on this machine reaches the node."""
        return local_url(self.host, self.port)


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises NodeError naming the variable; a misspelt one is refused, for it would change nothing."""
    known = {_name(entry): entry for entry in fields(Settings)}
    chosen: dict[str, Any] = {}
    for name, value in environment.items():
        if name in known:
            chosen[known[name].name] = _read(name, known[name], value)
        elif name.startswith(PREFIX) and name not in OTHERS:
            near = difflib.get_close_matches(name, known, 1)
            raise NodeError(f"{name}: no such setting; " + (f"did you mean {near[0]}?" if near else "unset it"))
    return Settings(**chosen)


def describe() -> tuple[Setting, ...]:
    return tuple(
        Setting(_name(entry), "unset" if entry.default is None else str(entry.default), entry.metadata["meaning"])
        for entry in fields(Settings)
    )


def _name(entry: Field[Any]) -> str:
    return PREFIX + entry.name.upper()


def _read(name: str, entry: Field[Any], value: str) -> Any:
    if not value.strip():
        raise NodeError(f"{name}: empty; unset it to use the default")
    try:
        return entry.metadata["parse"](value.strip())
    except ValueError as error:
        raise NodeError(f"{name}: {error}") from None
