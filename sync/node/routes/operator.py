"""What the operator asks for, by the token in the node's state folder."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field

from sync.clock import day_of_number
from sync.node import accounts, adjustments, auth, books, codes, customers, devices, evidence, leases, topups
from sync.node.context import Node
from sync.node.errors import Refusal
from sync.node.routes.body import JSON_BYTES_MAX, Form, parse, read_body
from sync.node.routes.device import show
from sync.node.statement import Statement, make_statement
from sync.price import rupees
from sync.record import Meter, Unit
from sync.segment import SignedSegment

TOPUPS_MAX = 500
DEVICES_MAX = 500
CUSTOMERS_MAX = 500


def the_operator(request: Request) -> Node:
    """The node, for a request that carries the operator's token."""
    node: Node = request.app.state.node
    auth.require_operator(node, request.headers)
    return node


Operated = Annotated[Node, Depends(the_operator)]
router = APIRouter(prefix="/v1")


class AddCustomer(Form):
    id: str | None = None
    name: str


class Confirm(Form):
    utr: Annotated[str, Field(max_length=40)]
    amount_paise: int | None = None


class Adjust(Form):
    id: str
    amount_paise: int
    reason: str


@router.post("/customers")
async def add_customer(request: Request, node: Operated) -> dict[str, object]:
    form = parse(AddCustomer, await read_body(request, JSON_BYTES_MAX))

    def add() -> customers.Customer:
        id = form.id if form.id is not None else "c-" + codes.letters(10, node.random).lower()
        with node.database.transaction() as connection:
            return customers.add(connection, id, form.name, node.clock.wall_ms())

    customer = await run_in_threadpool(add)
    return {"customer": customer.id, "name": customer.name}


@router.get("/customers")
def list_customers(request: Request, node: Operated) -> dict[str, object]:
    """At most 500, by id; query `after`: only ids after that one."""
    after = request.query_params.get("after", "")
    with node.database.snapshot() as connection:
        if after:
            customers.find(connection, after)
        listed = customers.list_balances(connection, after, CUSTOMERS_MAX)
    return {"customers": [{"customer": one.id, "name": one.name, "balance": one.balance} for one in listed]}


@router.post("/customers/{customer}/codes")
def issue_code(node: Operated, customer: str) -> dict[str, object]:
    now_ms = node.clock.wall_ms()
    with node.database.transaction() as connection:
        found = customers.find(connection, customer)
        code = codes.issue(connection, found.id, now_ms, node.random)
    return {"customer": found.id, "code": code, "expires_ms": now_ms + codes.LIFE_MS}


@router.get("/customers/{customer}/statement")
def show_statement(request: Request, node: Operated, customer: str) -> dict[str, object]:
    """Query `from` and `to`: days, both included; unset: from the customer's first day until today.

    One of days that are over is final, and closes them: a GET that writes, once for each.
    """
    first, last = _day(request, "from"), _day(request, "to")
    return _show_statement(make_statement(node.database, customer, first, last, node.clock.wall_ms()))


@router.post("/customers/{customer}/adjustments")
async def adjust_wallet(request: Request, node: Operated, customer: str) -> dict[str, object]:
    form = parse(Adjust, await read_body(request, JSON_BYTES_MAX))

    def adjust() -> dict[str, object]:
        with node.database.transaction() as connection:
            made = adjustments.adjust(
                connection,
                customer,
                form.id,
                form.amount_paise,
                reason=form.reason,
                now_ms=node.clock.wall_ms(),
            )
            balance = accounts.balance(connection, customer)
        return {**_show_adjustment(made.adjustment), "customer": customer, "posted": made.posted, "balance": balance}

    return await run_in_threadpool(adjust)


@router.get("/devices")
def list_devices(request: Request, node: Operated) -> dict[str, object]:
    """At most 500, first those that need a look; query `customer`: only that customer's."""
    customer = request.query_params.get("customer")
    with node.database.snapshot() as connection:
        if customer is not None:
            customers.find(connection, customer)
        found = devices.list_states(connection, customer, DEVICES_MAX)
    return {"devices": [_show_device(device) for device in found]}


@router.get("/devices/{device}/epochs/{epoch}/fork")
def show_fork(node: Operated, device: str, epoch: int) -> dict[str, object]:
    """Both segments as they were signed, in hex: with the public key, anybody can check them."""
    id = _device(device)
    with node.database.snapshot() as connection:
        known, fork = devices.find(connection, id, epoch), evidence.find_fork(connection, id, epoch)
    if known is None or fork is None:
        raise Refusal(404, "no_fork", "no such epoch of a device is frozen: `nukkad node devices` names them")
    return {
        "device": device,
        "epoch": epoch,
        "public_key": known.public_key.hex(),
        "seq": fork.seq,
        "older": None if fork.older is None else _show_signed(fork.older),
        "newer": _show_signed(fork.newer),
    }


@router.post("/devices/{device}/retire")
def retire_device(node: Operated, device: str) -> dict[str, object]:
    """The box is gone: it gets no more credit, and what it holds goes back to its customer. Idempotent."""
    with node.database.transaction() as connection:
        retired = devices.retire(connection, _device(device), node.clock.wall_ms())
        held, expires_ms = leases.end_of_hold(connection, retired)
    return {
        "device": device,
        "epoch": retired.epoch,
        "customer": retired.customer,
        "retired_ms": retired.retired_ms,
        "held": held,
        "expires_ms": expires_ms,
    }


def _device(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refusal(422, "bad_field", "device: must be hex digits, as `nukkad node devices` shows them") from None


def _show_signed(signed: SignedSegment) -> dict[str, str]:
    return {"payload": signed.payload.hex(), "signature": signed.signature.hex()}


@router.get("/topups")
def list_topups(request: Request, node: Operated) -> dict[str, object]:
    """The newest 500; query `customer`: only that customer's."""
    now_ms = node.clock.wall_ms()
    customer = request.query_params.get("customer")
    with node.database.snapshot() as connection:
        if customer is not None:
            customers.find(connection, customer)
        found = topups.list_some(connection, customer, TOPUPS_MAX)
    return {"topups": [_show_topup(node, topup, now_ms) for topup in found]}


@router.post("/topups/{reference}/confirm")
async def confirm_topup(request: Request, node: Operated, reference: str) -> dict[str, object]:
    form = parse(Confirm, await read_body(request, JSON_BYTES_MAX))

    def confirm() -> dict[str, object]:
        now_ms = node.clock.wall_ms()
        with node.database.transaction() as connection:
            done = topups.confirm(connection, reference, form.utr, form.amount_paise, now_ms=now_ms, random=node.random)
            balance = accounts.balance(connection, done.topup.customer)
        return {**_show_topup(node, done.topup, now_ms), "credited": done.credited, "balance": balance}

    return await run_in_threadpool(confirm)


@router.get("/trial-balance")
def show_trial_balance(node: Operated) -> dict[str, object]:
    with node.database.snapshot() as connection:
        totals = accounts.trial_balance(connection)
    debits, credits = sum(total.debits for total in totals), sum(total.credits for total in totals)
    return {
        "accounts": [{"account": total.account, "debits": total.debits, "credits": total.credits} for total in totals],
        "debits": debits,
        "credits": credits,
        "balanced": debits == credits and not any(total.drift for total in totals),
    }


@router.get("/prices")
def show_prices(node: Operated) -> dict[str, object]:
    with node.database.snapshot() as connection:
        book = books.in_force(connection, node.clock.wall_ms())
    return {
        "version": book.version,
        "effective_ms": book.effective_ms,
        "hash": book.digest.hex(),
        "rates": {
            meter.name.lower(): {unit.name.lower(): rate for unit, rate in sorted(units.items())}
            for meter, units in sorted(book.rates.items())
        },
    }


def _day(request: Request, name: str) -> date | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Refusal(422, "bad_field", f"{name}: must be a day like 2026-08-31") from None
    if not 1970 <= day.year <= 9000:
        raise Refusal(422, "bad_field", f"{name}: must be a day from 1970 on")
    return day


def _show_topup(node: Node, topup: topups.StoredTopUp, now_ms: int) -> dict[str, object]:
    return {
        **show(node, topup, now_ms),
        "customer": topup.customer,
        "standing": topup.standing,
        "created_ms": topup.created_ms,
        "utr": topup.utr,
        "paid_paise": topup.paid_paise,
    }


def _show_adjustment(adjustment: adjustments.Adjustment) -> dict[str, object]:
    return {
        "id": adjustment.id,
        "amount": adjustment.amount,
        "amount_rupees": rupees(adjustment.amount),
        "reason": adjustment.reason,
        "made_ms": adjustment.made_ms,
    }


def _show_device(device: devices.DeviceState) -> dict[str, object]:
    """`why`: the code of the refusal, or the record of which two were signed."""
    frozen = device.frozen_ms is not None
    return {
        "device": device.device.hex(),
        "epoch": device.epoch,
        "customer": device.customer,
        "state": device.state,
        "since_ms": device.frozen_ms if frozen else device.retired_ms or device.refused_ms,
        "why": f"fork at record {device.fork_seq}" if frozen else device.refused,
        "acked": device.acked,
        "enrolled_ms": device.enrolled_ms,
        "seen_ms": device.seen_ms,
        "held": device.held,
    }


def _show_statement(statement: Statement) -> dict[str, object]:
    """Amounts are micro-rupees; a name ending in `_paise` is paise, one ending in `_rupees` exact decimal text."""
    return {
        "customer": statement.customer.id,
        "name": statement.customer.name,
        "from": statement.first.isoformat(),
        "to": statement.last.isoformat(),
        "opening": statement.opening,
        "lines": [
            {
                "day": day_of_number(line.day).isoformat(),
                "meter": Meter(line.meter).name.lower(),
                "unit": Unit(line.unit).name.lower(),
                "calls": line.calls,
                "quantity": line.quantity,
                "rate": line.rate,
                "amount": line.amount,
            }
            for line in statement.lines
        ],
        "calls": statement.calls,
        "usage": statement.usage,
        "usage_paise": statement.usage_paise,
        "usage_rupees": rupees(statement.usage),
        "topups": [
            {
                "reference": payment.reference,
                "utr": payment.utr,
                "amount_paise": payment.amount_paise,
                "confirmed_ms": payment.confirmed_ms,
            }
            for payment in statement.payments
        ],
        "topups_paise": statement.paid_paise,
        "adjustments": [_show_adjustment(adjustment) for adjustment in statement.adjustments],
        "adjusted": statement.adjusted,
        "final": statement.final,
        "closing": statement.closing,
        "closing_rupees": rupees(statement.closing),
    }
