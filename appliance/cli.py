"""`nukkad …`: thin commands over functions and over the admin routes of a running box.

Other rooms add theirs through the entry points "nukkad.commands", so that the box imports neither node nor builder.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from appliance import packages, state, tables
from appliance.admin import Admin, AdminError
from appliance.devices import describe_devices
from appliance.engine.environments import install
from appliance.engine.providers import ProviderError
from appliance.enrol import enrol_stopped_box
from appliance.expected import OperatorError
from appliance.settings import Settings, from_env
from appliance.store.database import DatabaseError, open_database
from appliance.store.keys import KeyRefused, Keys
from appliance.up import up as run_up
from models.errors import PackageError
from models.store import Store
from sync.clock import SystemClock
from sync.errors import IdentityError, LedgerError, NodeError
from sync.rupees import parse_rupees

PLUG_INS = "nukkad.commands"
EXPECTED = (
    OperatorError,
    DatabaseError,
    IdentityError,
    KeyRefused,
    LedgerError,
    NodeError,
    PackageError,
    ProviderError,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Show = Callable[[Console, dict[str, Any]], None]

keys_app = typer.Typer(help="API keys of the box's callers.", no_args_is_help=True)
devices_app = typer.Typer(help="What this machine can run models on.", invoke_without_command=True)
models_app = typer.Typer(help="Model packages on the box.", no_args_is_help=True)


def serve() -> None:
    """Run the box until Ctrl-C or SIGTERM."""
    from appliance.run import run  # noqa: PLC0415 - the other commands start faster without the server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run(_settings())


def up() -> None:
    """A box and a billing node on this machine, with the starter models: what `make run` does."""
    raise typer.Exit(run_up(_settings()))


def demo(as_json: AsJson = False) -> None:
    """`up`, then real requests in five languages, a sync, and the node's statement against our own count."""
    from appliance.demo import demo as run  # noqa: PLC0415 - it loads the OpenAI client, which takes longer than all of this file

    raise typer.Exit(run(_settings(), as_json))


@keys_app.command("create")
def create_key(name: str, as_json: AsJson = False) -> None:
    """Make a key. Its secret is shown this once."""
    with_secret = _with_keys(lambda keys: keys.create(name))
    answer = {**with_secret[0].shown(), "secret": with_secret[1]}
    _print(as_json, answer, lambda console, shown: console.print(shown["secret"], soft_wrap=True))


@keys_app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """All keys, without their secrets."""
    answer = {"keys": [key.shown() for key in _with_keys(lambda keys: keys.all())]}
    _print(as_json, answer, tables.keys)


@keys_app.command("revoke")
def revoke_key(key_id: int, as_json: AsJson = False) -> None:
    """End a key, from its next request on."""
    answer = _with_keys(lambda keys: keys.revoke(key_id)).shown()
    _print(as_json, answer, lambda console, shown: console.print(f"Key {shown['id']} ({shown['name']}) is revoked."))


def usage(days: Annotated[int, typer.Option(min=1, max=3660)] = 30, as_json: AsJson = False) -> None:
    """Use and cost of each key over the last days."""
    _print(as_json, _box().get(f"/usage?days={days}"), tables.usage)


def sync(as_json: AsJson = False) -> None:
    """Ship every record to the node now and hear from it."""
    answer = _box().post("/sync")
    _print(
        as_json,
        answer,
        lambda console, shown: console.print(
            f"The node has billed {shown['billed']} records. Wallet ₹{shown['balance']}, new lease ₹{shown['lease']}."
        ),
    )


def status(as_json: AsJson = False) -> None:
    """What the box is, serves, owes and waits for."""
    _print(as_json, _box().get("/status"), tables.status)


def topup(
    amount: Annotated[str, typer.Argument(metavar="RUPEES", help="Such as 500 or 499.50.")], as_json: AsJson = False
) -> None:
    """Ask the node for a payment link and show it as a QR code."""
    _print(as_json, _box().post("/topups", {"amount_paise": _paise(amount)}), tables.topup)


def enrol(code: str, as_json: AsJson = False) -> None:
    """Join the customer whose one-time code this is."""
    settings = _settings()
    if state.is_held(settings.state):
        answer = Admin(settings.state).post("/enrol", {"code": code})
    else:
        answer = asyncio.run(enrol_stopped_box(settings, code))
    _print(as_json, answer, lambda console, shown: console.print(f"This box now belongs to {shown['customer']}."))


@devices_app.callback()
def devices(context: typer.Context, as_json: AsJson = False) -> None:
    """Processor, accelerators, execution providers, and what each package runs on."""
    if context.invoked_subcommand is None:
        _print(as_json, describe_devices(_settings()), tables.devices)


@devices_app.command("install")
def install_environment(
    name: Annotated[str, typer.Argument(help="Such as openvino; `nukkad devices` lists them.")],
    wheels: Annotated[Path | None, typer.Option(help="Folder of wheels to take instead of the index.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the engine environment of a provider, from its lock with hashes."""
    settings = _settings()
    state.prepare(settings.state)
    folder = install(settings.engines, name, wheels)
    _print(
        as_json,
        {"environment": name, "folder": str(folder)},
        lambda console, shown: console.print(f"{shown['folder']} is ready: choose its provider by NUKKAD_PROVIDER."),
    )


@models_app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every installed package, and which of them serve."""
    _print(as_json, {"models": packages.shown(_store())}, tables.models)


@models_app.command("install")
def install_model(path: Path, as_json: AsJson = False) -> None:
    """Take in a package from an OCI layout (folder or .tar) and let it serve."""
    state.prepare(_settings().state)
    package = _store().install(path)
    _serve_package("activate", package.name, package.digest, as_json)


@models_app.command("activate")
def activate_model(name: str, digest: str, as_json: AsJson = False) -> None:
    """Let an installed package serve under its name; the first digits of its digest are enough."""
    _serve_package("activate", name, _digest(digest, name), as_json)


@models_app.command("rollback")
def roll_back_model(name: str, as_json: AsJson = False) -> None:
    """Let the package that served before serve again."""
    _serve_package("rollback", name, None, as_json)


@models_app.command("deactivate")
def deactivate_model(name: str, as_json: AsJson = False) -> None:
    """Stop serving a name. Its packages stay installed."""
    if state.is_held(_settings().state):
        _box().post("/models/deactivate", {"name": name})
    else:
        _store().deactivate(name)
    _print(as_json, {"name": name}, lambda console, shown: console.print(f"{shown['name']} serves no longer."))


@models_app.command("remove")
def remove_model(digest: str, as_json: AsJson = False) -> None:
    """Delete an installed package that does not serve; the first digits of its digest are enough."""
    found = _digest(digest)
    _store().remove(found)
    _print(as_json, {"digest": found.hex()}, lambda console, shown: console.print(f"{shown['digest']} is removed."))


def build_app() -> typer.Typer:
    """All commands, with those of the other rooms that are installed."""
    made = typer.Typer(
        help="Nukkad: small models for Indian languages on your own box.", no_args_is_help=True, add_completion=False
    )
    for command in (serve, up, demo, usage, sync, status, topup, enrol):
        made.command()(command)
    made.add_typer(keys_app, name="keys")
    made.add_typer(devices_app, name="devices")
    made.add_typer(models_app, name="models")
    for plug_in in entry_points(group=PLUG_INS):
        made.add_typer(plug_in.load(), name=plug_in.name)
    return made


app = build_app()


def main() -> None:
    try:
        app()
    except EXPECTED as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _settings() -> Settings:
    return from_env(os.environ)


def _box() -> Admin:
    return Admin(_settings().state)


def _store() -> Store:
    return Store(_settings().store)


def _with_keys(work: Callable[[Keys], Any]) -> Any:
    """Works whether the box runs or not: it reads its keys at every request."""
    settings = _settings()
    state.prepare(settings.state)
    database = open_database(settings.state, SystemClock())
    try:
        return work(Keys(database, SystemClock()))
    finally:
        database.close()


def _digest(digest: str, name: str | None = None) -> bytes:
    """The one in the store that begins so: of a package of that name, or of any, damaged or not. Raises AdminError."""
    begins = digest.removeprefix("sha256:").lower()
    installed, damaged = _store().installed()
    known = [package.digest for package in installed if name in (None, package.name)]
    if name is None:
        known += [package.digest for package in damaged]
    found = [one for one in known if one.hex().startswith(begins)]
    if not begins or len(found) != 1:
        of = f" of {name}" if name else ""
        raise AdminError(f"{len(found)} packages{of} begin with {digest!r}: `nukkad models list` shows them")
    return found[0]


def _serve_package(verb: str, name: str, digest: bytes | None, as_json: bool) -> None:
    """Through the box when it runs, so that its engine takes the package up; into the store otherwise."""
    settings = _settings()
    if state.is_held(settings.state):
        body = {"name": name} if digest is None else {"name": name, "digest": digest.hex()}
        answer = Admin(settings.state).post(f"/models/{verb}", body)
    else:
        store = _store()
        if digest is None:
            store.roll_back(name)
        else:
            store.activate(name, digest)
        answer = {"name": name, "digest": store.serving(name).hex()}
    _print(as_json, answer, lambda console, shown: console.print(f"{shown['name']} {shown['digest'][:12]} serves."))


def _paise(text: str) -> int:
    """Raises AdminError."""
    try:
        paise = parse_rupees(text)
    except ValueError as error:
        raise AdminError(f"RUPEES: {error}") from None
    if paise <= 0:
        raise AdminError("RUPEES: must be more than nothing")
    return paise


def _print(as_json: bool, answer: dict[str, Any], show: Show) -> None:
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        show(Console(markup=False, emoji=False, highlight=False), answer)


if __name__ == "__main__":
    main()
