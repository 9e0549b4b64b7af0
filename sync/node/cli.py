"""`nukkad node …`: runs the billing node, and asks a running one over its HTTP API."""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from sync.node.client import Client
from sync.node.errors import NodeError
from sync.node.settings import read_settings
from sync.node.tables import (
    print_customers,
    print_devices,
    print_prices,
    print_retired,
    print_statement,
    print_topups,
    print_trial_balance,
)
from sync.rupees import parse_rupees

app = typer.Typer(
    help="The billing node: takes segments, bills, and credits top-ups.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they hold the operator's token
)
customer_app = typer.Typer(help="Who pays.", no_args_is_help=True)
app.add_typer(customer_app, name="customer")

AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


@app.command()
def serve() -> None:
    """Run the node until Ctrl-C or SIGTERM."""
    from sync.node.serve import serve as run  # noqa: PLC0415 - the other commands start faster without the server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with _explained():
        run(read_settings())


@customer_app.command("add")
def add_customer(
    name: str,
    customer: Annotated[str | None, typer.Option("--id", help="Such as sharma-store; unset: made up.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a customer with an empty wallet."""
    body = {"name": name} if customer is None else {"name": name, "id": customer}
    _show(
        as_json,
        lambda client: client.post("/v1/customers", body),
        lambda answer, console: console.print(answer["customer"]),
    )


@customer_app.command("list")
def list_customers(
    after: Annotated[str | None, typer.Option(metavar="CUSTOMER", help="Those that come after this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Customers and their balances: at most 500, by id."""
    _show(as_json, lambda client: client.get("/v1/customers", after=after), print_customers)


@app.command()
def enrol(customer: str, as_json: AsJson = False) -> None:
    """Make a one-time code by which a box joins this customer."""

    def show(answer: dict[str, Any], console: Console) -> None:
        console.print(answer["code"])
        console.print("Good for one box and 15 minutes. On the box: nukkad enrol CODE", style="dim")

    _show(as_json, lambda client: client.post(f"/v1/customers/{_part(customer)}/codes"), show)


@app.command()
def statement(
    customer: str,
    first: Annotated[str | None, typer.Option("--from", metavar="YYYY-MM-DD")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Included.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a customer used and paid; without days: everything. Of days that are over it never changes any more."""
    query = {"from": first, "to": last}
    _show(as_json, lambda client: client.get(f"/v1/customers/{_part(customer)}/statement", **query), print_statement)


@app.command(context_settings={"ignore_unknown_options": True})  # so that -5 is an amount
def adjust(
    customer: str,
    amount: Annotated[str, typer.Argument(metavar="RUPEES", help="In the customer's favour, or below 0 against.")],
    reason: Annotated[str, typer.Option(help="Stands on the customer's statement.")],
    id: Annotated[str, typer.Option("--id", help="Of your choice, such as ticket-17; posted once for ever.")],
    as_json: AsJson = False,
) -> None:
    """Correct a wallet by an entry of its own; nothing posted before changes."""

    def ask(client: Client) -> dict[str, Any]:
        body = {"id": id, "amount_paise": _paise("RUPEES", amount), "reason": reason}
        return client.post(f"/v1/customers/{_part(customer)}/adjustments", body)

    def show(answer: dict[str, Any], console: Console) -> None:
        done = "Posted" if answer["posted"] else "Posted before; nothing was posted now"
        console.print(f"{done}: ₹{answer['amount_rupees']} for {answer['customer']}.")

    _show(as_json, ask, show)


@app.command()
def devices(customer: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """Boxes, what they hold, and which are frozen, refused or retired."""
    _show(as_json, lambda client: client.get("/v1/devices", customer=customer), print_devices)


@app.command()
def retire(device: str, as_json: AsJson = False) -> None:
    """Say that a box is gone: it gets no more credit, and what it holds is its customer's again."""
    _show(as_json, lambda client: client.post(f"/v1/devices/{_part(device)}/retire"), print_retired)


@app.command()
def fork(device: str, epoch: int) -> None:
    """What proves that a frozen box was two: both segments as they were signed, as JSON."""
    _show(True, lambda client: client.get(f"/v1/devices/{_part(device)}/epochs/{epoch}/fork"), lambda *_: None)


@app.command()
def topups(customer: Annotated[str | None, typer.Argument()] = None, as_json: AsJson = False) -> None:
    """The newest top-ups."""
    _show(as_json, lambda client: client.get("/v1/topups", customer=customer), print_topups)


@app.command()
def confirm(
    reference: str,
    utr: str,
    amount: Annotated[str | None, typer.Option(metavar="RUPEES", help="For a standing top-up: what was paid.")] = None,
    as_json: AsJson = False,
) -> None:
    """Credit the payment with this UTR, which your bank shows, to the top-up's customer; once for ever."""

    def ask(client: Client) -> dict[str, Any]:
        body: dict[str, Any] = {"utr": utr}
        if amount is not None:
            body["amount_paise"] = _paise("--amount", amount)
        return client.post(f"/v1/topups/{_part(reference)}/confirm", body)

    def show(answer: dict[str, Any], console: Console) -> None:
        if answer["credited"]:
            console.print(f"Credited to {answer['customer']}; the box hears of it at its next sync.")
        else:
            console.print(f"UTR {answer['utr']} was credited before; nothing was credited now.")

    _show(as_json, ask, show)


@app.command("trial-balance")
def trial_balance(as_json: AsJson = False) -> None:
    """Debits and credits of every account; they are always equal."""
    _show(as_json, lambda client: client.get("/v1/trial-balance"), print_trial_balance)


@app.command()
def prices(as_json: AsJson = False) -> None:
    """The price book in force."""
    _show(as_json, lambda client: client.get("/v1/prices"), print_prices)


def _paise(name: str, text: str) -> int:
    try:
        return parse_rupees(text)
    except ValueError as error:
        raise NodeError(f"{name}: {error}") from None


def _part(text: str) -> str:
    """One part of a path. Raises NodeError for what could not be a name, so that it is never taken for a path."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", text):
        raise NodeError(f"{text!r} is no name of a customer, box or top-up: they have letters, digits and - only")
    return text


def _show(
    as_json: bool,
    ask: Callable[[Client], dict[str, Any]],
    show: Callable[[dict[str, Any], Console], None],
) -> None:
    with _explained():
        answer = ask(Client(read_settings()))
    if as_json:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        show(answer, Console(markup=False, emoji=False, highlight=False))


@contextmanager
def _explained() -> Iterator[None]:
    """The edge of the process: what went wrong in one sentence, and status 1."""
    try:
        yield
    except (NodeError, OSError) as error:
        typer.echo(f"nukkad node: {error}", err=True)
        raise typer.Exit(1) from None
