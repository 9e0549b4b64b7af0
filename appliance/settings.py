"""Everything about a box that an operator may choose, read once from the environment at start.

Each field is one variable: NUKKAD_ and the field's name in capitals. Its default, bounds and meaning stand beside it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from appliance.engine.placement import read_placement
from appliance.engine.providers import ProviderError
from appliance.engine.settings import EngineSettings, physical_cores, share_of_memory
from appliance.expected import OperatorError
from sync.reach import check_node_url

PREFIX = "NUKKAD_"
OTHERS = ("NUKKAD_NODE_", "NUKKAD_CACHE")  # read by the node and the package builder; one environment may hold all


class SettingsError(OperatorError):
    """A variable holds what cannot be used; the message names it and the fix."""


class Setting(NamedTuple):
    """One variable, for help texts and the docs test."""

    name: str
    default: str
    meaning: str


def _whole(least: int, most: int, meaning: str) -> dict[str, Any]:
    return {"meaning": meaning, "least": least, "most": most}


def _any(meaning: str) -> dict[str, Any]:
    return {"meaning": meaning}


OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    state: Path = field(
        default=Path(".nukkad/box"),
        metadata=_any("Folder of the ledger, keys, packages and secrets; private to the box (0700)."),
    )
    host: str = field(
        default="127.0.0.1", metadata=_any("Address to listen on; anything but loopback opens the box to the network.")
    )
    port: int = field(default=8765, metadata=_whole(1, 65_535, "Port to listen on."))
    hosts: str = field(
        default=",".join(OWN_NAMES),
        metadata=_any("More names (comma between) under which browsers may reach console, admin routes and metrics."),
    )
    node_url: str = field(
        default="http://127.0.0.1:8471", metadata=_any("Billing node used by `nukkad enrol`; kept with the enrolment.")
    )
    sync_s: int = field(default=60, metadata=_whole(1, 86_400, "Seconds between syncs while nothing fails."))
    body_bytes_max: int = field(default=4 << 20, metadata=_whole(1024, 256 << 20, "Largest request body."))
    header_s: int = field(
        default=10, metadata=_whole(1, 300, "Seconds a caller has to send a request's headers, and an idle connection.")
    )
    receive_s: int = field(default=15, metadata=_whole(1, 600, "Seconds a caller has to send a request's body."))
    send_s: int = field(
        default=30,
        metadata=_whole(1, 600, "Seconds a stream waits for a caller that does not read before it is given up."),
    )
    connections: int = field(default=512, metadata=_whole(1, 16_384, "Open connections."))
    concurrency: int = field(
        default=64,
        metadata=_whole(
            1, 4096, "Requests worked on at once; the next one is refused with 503. One key has three quarters of them."
        ),
    )
    key_concurrency: int = field(
        default=32,
        metadata=_whole(
            1, 4096, "Billable calls that one key may have running, within its three quarters; the next one gets 429."
        ),
    )
    stop_s: int = field(default=10, metadata=_whole(0, 600, "Seconds running streams get to end when the box stops."))
    threads: int = field(default=0, metadata=_whole(0, 256, "Threads of one matmul; 0 takes the physical cores."))
    slots: int = field(
        default=16,
        metadata=_whole(
            1, 64, "Sequences held, per decoder: those under way, and finished ones that others may go on."
        ),
    )
    cache_mib: int = field(
        default=0,
        metadata=_whole(
            0,
            1 << 20,
            "MiB for keys and values, per decoder; a call waits until its share is free. 0 takes a quarter of the "
            "machine's memory, 2048 at most.",
        ),
    )
    share_prefixes: int = field(
        default=0,
        metadata=_whole(
            0, 1, "1 lets prompts of different keys share what they begin with: faster, but a caller can find out."
        ),
    )
    lane: str = field(
        default="auto",
        metadata=_any("Which lane of a package serves, where it has one of this name; auto takes the fastest."),
    )
    queue: int = field(
        default=32, metadata=_whole(0, 4096, "Calls that may wait for the engine, per model, before 503.")
    )
    context_tokens: int = field(
        default=8192, metadata=_whole(16, 131_072, "Longest prompt plus answer, where the model itself allows it.")
    )
    prefill_tokens: int = field(default=128, metadata=_whole(1, 8192, "Prompt tokens taken in one step."))
    batch_tokens: int = field(default=1024, metadata=_whole(16, 65_536, "Padded tokens of one encoder batch."))
    provider: str = field(
        default="CPUExecutionProvider",
        metadata=_any(
            "Execution provider of all packages, or of some as NAME=PROVIDER with commas between; no other is used in "
            "its stead. `nukkad devices` shows them."
        ),
    )

    @property
    def store(self) -> Path:
        return self.state / "store"

    @property
    def engines(self) -> Path:
        """Engine environments of builds that exclude the box's own."""
        return self.state / "engines"

    @property
    def host_names(self) -> tuple[str, ...]:
        """Those of `hosts`, this machine's own, by which the commands come, and the address listened on."""
        listened = f"[{self.host}]" if ":" in self.host else self.host
        names = (*self.hosts.split(","), *OWN_NAMES, listened)
        return tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))

    @property
    def places_per_key(self) -> int:
        """Requests that one key may have open: a quarter of `concurrency` is always left to the others."""
        return max(1, self.concurrency * 3 // 4)

    @property
    def engine(self) -> EngineSettings:
        return EngineSettings(
            threads=self.threads or physical_cores(),
            slots=self.slots,
            cache_bytes=self.cache_mib << 20 or share_of_memory(),
            share_prefixes=bool(self.share_prefixes),
            lane=self.lane,
            trials=str(self.state / "lanes.json"),
            queue=self.queue,
            context_tokens=self.context_tokens,
            prefill_tokens=self.prefill_tokens,
            batch_tokens=self.batch_tokens,
            provider=self.provider,
        )


def from_env(environ: Mapping[str, str]) -> Settings:
    """Raises SettingsError naming the variable; a misspelt NUKKAD_ variable is refused, for it would change nothing."""
    known = {_name(entry): entry for entry in fields(Settings)}
    chosen: dict[str, Any] = {}
    for name, value in environ.items():
        if name in known:
            chosen[known[name].name] = _read(name, known[name], value)
            if known[name].name == "node_url":
                _check_url(name, value)
            if known[name].name == "provider":
                _check_provider(name, value)
        elif name.startswith(PREFIX) and not name.startswith(OTHERS):
            near = difflib.get_close_matches(name, known, 1)
            raise SettingsError(f"{name}: no such setting; " + (f"did you mean {near[0]}?" if near else "unset it"))
    return Settings(**chosen)


def _check_url(name: str, value: str) -> None:
    try:
        check_node_url(value.strip())
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None


def _check_provider(name: str, value: str) -> None:
    try:
        read_placement(value)
    except ProviderError as error:
        raise SettingsError(f"{name}: {error}") from None


def describe() -> tuple[Setting, ...]:
    return tuple(Setting(_name(entry), str(entry.default), entry.metadata["meaning"]) for entry in fields(Settings))


def _name(entry: Field[Any]) -> str:
    return PREFIX + entry.name.upper()


def _read(name: str, entry: Field[Any], value: str) -> Any:
    assert entry.default is not MISSING
    if not value.strip():
        raise SettingsError(f"{name}: empty; unset it to use {entry.default}")
    if isinstance(entry.default, Path):
        return Path(value)
    if isinstance(entry.default, str):
        return value.strip()
    least, most = entry.metadata["least"], entry.metadata["most"]
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12 and least <= int(digits) <= most):
        raise SettingsError(f"{name}: {value!r} is not a whole number from {least} to {most}")
    return int(digits)
