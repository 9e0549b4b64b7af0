"""What the page shows, made from the status of the box: every text that changes by itself, under a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from appliance.console import figures
from appliance.console.words import Words

KEYS_SHOWN = 5
State = Literal["ready", "starting", "no_models", "alone", "expired", "empty"]

# Each language under its own name: whoever reads it finds it, whatever the language of the page.
AUTONYMS = {
    "as": "অসমীয়া",
    "bn": "বাংলা",
    "en": "English",
    "gu": "ગુજરાતી",
    "hi": "हिन्दी",
    "kn": "ಕನ್ನಡ",
    "ml": "മലയാളം",
    "mr": "मराठी",
    "ne": "नेपाली",
    "or": "ଓଡ଼ିଆ",
    "pa": "ਪੰਜਾਬੀ",
    "sa": "संस्कृतम्",
    "sd": "سنڌي",
    "ta": "தமிழ்",
    "te": "తెలుగు",
    "ur": "اردو",
}


@dataclass(frozen=True)
class TopUp:
    """A `upi://pay` link and what it says; `amount` is None where the payer chooses."""

    link: str
    payee: str
    reference: str
    amount: str | None


@dataclass(frozen=True)
class Model:
    name: str
    tasks: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """`live` holds the texts that a page renews by itself; when `shape` differs, the page is to be loaded anew."""

    state: State
    live: dict[str, str]
    credit_share: int  # per cent left
    topup: TopUp | None
    models: tuple[Model, ...]
    set_aside: tuple[str, ...]
    meters: tuple[tuple[str, str, str], ...]  # name, characters, cost
    keys: tuple[tuple[str, str], ...]  # name, beginning
    keys_more: int
    customer: str | None
    node_url: str | None
    sync_failed: bool
    device: str
    chat_model: str | None
    vector_model: str | None

    @property
    def shape(self) -> str:
        parts = (self.state, self.topup, self.models, self.set_aside, self.keys, self.keys_more, self.sync_failed)
        return f"{hash((parts, tuple(sorted(self.live)))):x}"


def view(status: dict[str, Any], keys: Sequence[tuple[str, str]], now_ms: int, words: Words) -> View:
    """`status` as appliance.status gives it; `keys` are names and beginnings of keys that are not revoked."""
    state = _state(status)
    credit, enrolment = status["credit"], status["enrolment"]
    models = tuple(_model(model, words) for model in status["models"])
    return View(
        state=state,
        live=_live(status, state, now_ms, words),
        credit_share=figures.share(credit["left"], _total(credit)) if credit else 0,
        topup=_topup(credit["topup"], words) if credit and credit["topup"] else None,
        models=models,
        set_aside=tuple(words("set_aside", model=each["model"]) for each in status["engine"]["set_aside"]),
        meters=tuple(_meter(name, used, words) for name, used in status["today"]["meters"].items()),
        keys=tuple(keys[:KEYS_SHOWN]),
        keys_more=max(0, len(keys) - KEYS_SHOWN),
        customer=enrolment["customer"] if enrolment else None,
        node_url=enrolment["node_url"] if enrolment else None,
        sync_failed=status["sync"]["failure"] is not None,
        device=status["device"],
        chat_model=_first(status, "chat"),
        vector_model=_first(status, "embedding"),
    )


def _state(status: dict[str, Any]) -> State:
    """The one thing to tell first: what keeps the box from answering, the deepest cause before the others."""
    if status["enrolment"] is None or status["credit"] is None:
        return "alone"
    if not status["engine"]["ready"]:
        return "starting"
    if not status["models"]:
        return "no_models"
    if status["credit"]["expired"]:
        return "expired"
    return "ready" if Decimal(status["credit"]["left"]) > 0 else "empty"


def _live(status: dict[str, Any], state: State, now_ms: int, words: Words) -> dict[str, str]:
    credit, sync, today = status["credit"], status["sync"], status["today"]
    until = figures.moment(credit["expires"], words) if credit else ""
    live = {
        "state": words(f"state_{state}"),
        "state_more": words(f"state_{state}_more", until=until),
        "calls": figures.grouped(today["requests"]),
        "cost": figures.money(today["cost"], words),
        "synced": words("synced", ago=figures.ago(sync["last"], now_ms, words))
        if sync["last"]
        else words("never_synced"),
        "billed": _billed(sync["billed"], sync["records"], words),
    }
    if credit:
        live["left"] = figures.money(credit["left"], words)
        live["total"] = words("credit_of", total=figures.money(_total(credit), words))
        live["until"] = words("credit_until", until=until)
    if credit and Decimal(credit["allowance"]) > 0:
        live["allowance"] = words("allowance", allowance=figures.money(credit["allowance"], words))
    for name, used in today["meters"].items():
        _, live[f"{name}_characters"], live[f"{name}_cost"] = _meter(name, used, words)
    return live


def _billed(billed: int, records: int, words: Words) -> str:
    if records == 0:
        return words("none_billed")
    if billed >= records:
        return words("all_billed", records=figures.grouped(records))
    return words("billed", billed=figures.grouped(billed), records=figures.grouped(records))


def _total(credit: dict[str, Any]) -> str:
    return str(Decimal(credit["granted"]) + Decimal(credit["allowance"]))


def _meter(name: str, used: dict[str, Any], words: Words) -> tuple[str, str, str]:
    units = used["units"]
    read, written = (figures.grouped(units.get(unit, 0)) for unit in ("points_in", "points_out"))
    key = "characters" if units.get("points_out") else "characters_read"
    return name, words(key, read=read, written=written), figures.money(used["cost"], words)


def _model(model: dict[str, Any], words: Words) -> Model:
    tasks = " · ".join(words(f"model_task_{task}") for task in model["tasks"])
    return Model(model["name"], tasks, tuple(AUTONYMS.get(code, code) for code in model["languages"]))


def _topup(link: str, words: Words) -> TopUp:
    asked = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    payee = " · ".join(asked[name] for name in ("pn", "pa") if name in asked)
    return TopUp(link, payee, asked.get("tr", ""), figures.money(asked["am"], words) if "am" in asked else None)


def _first(status: dict[str, Any], task: str) -> str | None:
    return next((model["name"] for model in status["models"] if task in model["tasks"]), None)
