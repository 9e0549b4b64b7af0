"""`nukkad up`: starter packages, a billing node and a box on this machine, ready to try."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import models
from appliance import address, state
from appliance.children import Children, command
from appliance.enrol import enrol_stopped_box
from appliance.expected import OperatorError
from appliance.settings import Settings
from appliance.store.database import open_database
from appliance.store.keys import Keys
from models.errors import PackageError
from models.store import Store
from sync.clock import SystemClock
from sync.identity import load_or_create
from sync.reach import local_url

CHAT_MODEL = "smollm2-135m-instruct"
EMBED_MODEL = "multilingual-e5-small"
SEARCH_MODEL = "shop-search-e5-small"  # the same, tuned for what customers ask; searches use it unless told otherwise
STARTERS = (EMBED_MODEL, SEARCH_MODEL, CHAT_MODEL)
CATALOGUE = Path(models.__file__).parent / "catalogue"
CUSTOMER = "demo"
KEY_NAME = "nukkad up"
NODE_READY_S, BOX_READY_S = 60, 120
WATCH_S = 0.5


class UpError(OperatorError):
    """Something on the way to a running box failed; the message says what and what to do."""


@dataclass(frozen=True)
class House:
    """A box and a node that run. `key` is a fresh one; `environment` reaches both with `nukkad …`."""

    url: str
    key: str
    seconds: float
    environment: dict[str, str]
    children: Children

    def ask(self, *words: str) -> dict[str, Any]:
        """What `nukkad WORDS… --json` answers. Raises UpError."""
        return _ask(self.environment, *words)


def up(settings: Settings) -> int:
    """Until Ctrl-C or SIGTERM; the exit code."""
    console = Console(markup=False, emoji=False, highlight=False)
    end_on_signals()
    try:
        with house(settings, console) as ready:
            console.print(welcome(ready), soft_wrap=True)
            while True:
                ready.children.check()
                time.sleep(WATCH_S)
    except KeyboardInterrupt:
        console.print("Stopped. Your data is kept; the next start goes on from here.")
    return 0


def end_on_signals() -> None:
    """Ctrl-C and SIGTERM both end the process in order; a shell that starts it in the background ignores the first."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.default_int_handler)


def welcome(ready: House) -> str:
    """What to do next, to be pasted into a shell as it stands."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return f"""
Nukkad is ready ({ready.seconds:.1f} s). Base URL: {ready.url}/v1
A fresh API key, good until the next start: {ready.key}
First page: {ready.url}/

Ask with curl:

curl {ready.url}/v1/embeddings -H "Authorization: Bearer {ready.key}" \\
  -H "Content-Type: application/json" -d '{{"model": "{EMBED_MODEL}", "input": "दूध का भाव क्या है?"}}'

Ask with Python and the official openai client:

{python} - <<'END'
from openai import OpenAI

client = OpenAI(base_url="{ready.url}/v1", api_key="{ready.key}")
answer = client.chat.completions.create(
    model="{CHAT_MODEL}",
    messages=[{{"role": "user", "content": "What is the capital of India?"}}],
    max_tokens=60,
    temperature=0,
)
print(answer.choices[0].message.content)
END

Every answer is billed to the customer "{CUSTOMER}" of the node on this machine. Its wallet is empty; the node allows a
little credit to try with. See `nukkad status`, `nukkad usage`, `nukkad topup 500`, `nukkad node statement {CUSTOMER}`;
`nukkad keys create NAME` makes a key that lasts.
Ctrl-C stops box and node.
"""


@contextmanager
def house(settings: Settings, console: Console) -> Iterator[House]:
    """Inside, node and box run and the box has a customer. Raises UpError, ChildError, AddressError, StateError."""
    environment = _environment(settings)
    node_state = Path(environment["NUKKAD_NODE_STATE"])
    state.prepare(settings.state)
    if state.is_held(settings.state):
        raise UpError(f"a box is running on {settings.state} already: stop that one first (Ctrl-C where it runs)")
    address.check(settings.host, settings.port)
    _check_node_port(environment)
    _build_missing(settings, environment, console)
    _check_enrolment(settings, environment)
    began = time.monotonic()
    node_state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Children(environment) as children:
        children.start("node", ["node", "serve"], node_state / "node.log")
        enrolment = load_or_create(settings.state).enrolment
        if enrolment is None:
            children.wait_ready("node", f"{_node_url(environment)}/readyz", NODE_READY_S)
            _enrol(settings, environment)
        children.start("box", ["serve"], settings.state / "box.log")
        url = local_url(settings.host, settings.port)
        children.wait_ready("node", f"{_node_url(environment)}/readyz", NODE_READY_S)
        children.wait_ready("box", f"{url}/readyz", BOX_READY_S)
        yield House(url, _new_key(settings), time.monotonic() - began, environment, children)


def _environment(settings: Settings) -> dict[str, str]:
    """This process's, with what both children must agree on made explicit."""
    chosen = dict(os.environ)
    chosen.setdefault("NUKKAD_NODE_STATE", str(settings.state.parent / "node"))
    chosen.setdefault("NUKKAD_NODE_HOST", "127.0.0.1")
    chosen.setdefault("NUKKAD_NODE_PORT", "8471")
    if not re.fullmatch(r"[0-9]{1,5}", chosen["NUKKAD_NODE_PORT"]):
        raise UpError(f"NUKKAD_NODE_PORT: {chosen['NUKKAD_NODE_PORT']!r} is not a port")
    chosen["NUKKAD_NODE_URL"] = _node_url(chosen)
    chosen["NUKKAD_STATE"] = str(settings.state)
    return chosen


def _node_url(environment: dict[str, str]) -> str:
    return local_url(environment["NUKKAD_NODE_HOST"], int(environment["NUKKAD_NODE_PORT"]))


def _check_node_port(environment: dict[str, str]) -> None:
    host, port = environment["NUKKAD_NODE_HOST"], environment["NUKKAD_NODE_PORT"]
    try:
        address.check(host, int(port))
    except address.AddressError:
        raise UpError(
            f"cannot listen on {host}:{port} for the node: stop what uses it, or choose another with NUKKAD_NODE_PORT"
        ) from None


def _check_enrolment(settings: Settings, environment: dict[str, str]) -> None:
    """A box stays with the node it was enrolled with: another address would be billed nowhere."""
    enrolment = load_or_create(settings.state).enrolment
    if enrolment is not None and enrolment.node_url != _node_url(environment):
        raise UpError(
            f"this box is enrolled with the node at {enrolment.node_url}: give that node the same address again "
            "(NUKKAD_NODE_HOST, NUKKAD_NODE_PORT), or run `nukkad serve` for the box alone"
        )


def _build_missing(settings: Settings, environment: dict[str, str], console: Console) -> None:
    store = Store(settings.store)
    missing = [name for name in STARTERS if not serves(store, name, _version(name))]
    if missing:
        console.print(f"Building the starter models, once: {', '.join(missing)} (about 190 MB to download)")
    for name in missing:
        words = ["build", name, "--install-into", str(settings.store)]
        built = subprocess.run(command(words), env=environment, check=False)  # noqa: S603 - our own command
        if built.returncode != 0:
            raise UpError(f"{name} could not be built; the line above says why")


def serves(store: Store, name: str, version: str) -> bool:
    """Not so if it is not there, or damaged, or of a version of Nukkad that made packages in another way."""
    try:
        return store.current(name).manifest.version == version
    except PackageError:
        return False


def _version(name: str) -> str:
    """That of the recipe which comes with this release."""
    return str(tomllib.loads((CATALOGUE / f"{name}.toml").read_text("utf-8"))["version"])


def _enrol(settings: Settings, environment: dict[str, str]) -> None:
    """The demo customer, with an empty wallet: no money is made up, the node's allowance is enough to try."""
    _ask(environment, "node", "customer", "add", "Demo shop", "--id", CUSTOMER)
    code = _ask(environment, "node", "enrol", CUSTOMER)["code"]
    asyncio.run(enrol_stopped_box(replace(settings, node_url=_node_url(environment)), code))


def _ask(environment: dict[str, str], *words: str) -> dict[str, Any]:
    run = subprocess.run(  # noqa: S603 - our own command
        command([*words, "--json"]), env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise UpError(f"nukkad {' '.join(words)}: {run.stderr.strip()}")
    return dict(json.loads(run.stdout))


def _new_key(settings: Settings) -> str:
    """In the place of the one that the last start printed, so that printed keys do not pile up."""
    database = open_database(settings.state, SystemClock())
    try:
        keys = Keys(database, SystemClock())
        for key in keys.all():
            if key.name == KEY_NAME and key.revoked_ms is None:
                keys.revoke(key.id)
        return keys.create(KEY_NAME)[1]
    finally:
        database.close()
