"""The node's answers as tables for people."""

from datetime import datetime
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from sync.clock import INDIA
from sync.price import MICRO_PER_PAISA, rupees

Answer = dict[str, Any]


def make_table(*columns: str) -> Table:
    """A column whose name begins with > is for numbers. What is too wide goes on in the next line: nothing is cut."""
    table = Table(pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        table.add_column(column.lstrip(">"), justify=justify, overflow="fold")
    return table


def print_statement(answer: Answer, console: Console) -> None:
    title = f"Statement of {answer['name']} ({answer['customer']}), {answer['from']} to {answer['to']}"
    console.print(title, style="bold")
    table = make_table("Day", "Meter", "Unit", ">Calls", ">Quantity", ">₹ per 1,000", ">₹")
    for line in answer["lines"]:
        counted = (line["day"], line["meter"], line["unit"], f"{line['calls']:,}", f"{line['quantity']:,}")
        free = line["rate"] == 0
        table.add_row(*counted, "free" if free else rupees(line["rate"]), "" if free else rupees(line["amount"]))
    console.print(table)
    for payment in answer["topups"]:
        paid = rupees(payment["amount_paise"] * MICRO_PER_PAISA)
        console.print(
            f"Top-up {payment['reference']} · UTR {payment['utr']} · ₹{paid} · {_time(payment['confirmed_ms'])}"
        )
    for adjustment in answer["adjustments"]:
        made = f"₹{adjustment['amount_rupees']} · {_time(adjustment['made_ms'])}"
        console.print(f"Adjustment {adjustment['id']} · {made} · {adjustment['reason']}")
    rounded = rupees(answer["usage_paise"] * MICRO_PER_PAISA)
    console.print(f"Opening balance ₹{rupees(answer['opening'])}")
    console.print(f"Top-ups         ₹{rupees(answer['topups_paise'] * MICRO_PER_PAISA)}")
    console.print(f"Usage           ₹{rounded} (exactly ₹{answer['usage_rupees']}, {answer['calls']:,} calls)")
    if answer["adjustments"]:
        console.print(f"Adjustments     ₹{rupees(answer['adjusted'])}")
    console.print(f"Closing balance ₹{answer['closing_rupees']}")
    if not answer["final"]:
        console.print(f"{answer['to']} is not over: this statement may still change.", style="bold")


def print_topups(answer: Answer, console: Console) -> None:
    table = make_table("Reference", "Customer", "Status", ">₹", "Made", "UTR")
    for topup in answer["topups"]:
        paise = topup["paid_paise"] or topup["amount_paise"]
        amount = rupees(paise * MICRO_PER_PAISA) if paise else "payer's choice"
        row = (topup["reference"], topup["customer"], topup["status"], amount, _time(topup["created_ms"]))
        table.add_row(*row, topup["utr"] or "")
    console.print(table)


def print_trial_balance(answer: Answer, console: Console) -> None:
    table = make_table("Account", ">Debits ₹", ">Credits ₹")
    for account in answer["accounts"]:
        table.add_row(account["account"], rupees(account["debits"]), rupees(account["credits"]))
    table.add_section()
    table.add_row("Total", rupees(answer["debits"]), rupees(answer["credits"]))
    console.print(table)
    if answer["balanced"]:
        console.print("Balanced.")
    else:
        console.print("NOT BALANCED: stop the node and look.", style="bold red")


def print_prices(answer: Answer, console: Console) -> None:
    console.print(f"Price book {answer['version']}, ₹ per 1,000 units", style="bold")
    table = make_table("Meter", "Unit", ">₹")
    for meter, rates in answer["rates"].items():
        for unit, rate in rates.items():
            table.add_row(meter, unit, rupees(rate))
    console.print(table)
    console.print(f"In force since {_time(answer['effective_ms'])} · {answer['hash']}")


def print_devices(answer: Answer, console: Console) -> None:
    table = make_table("Device", ">Epoch", "Customer", "State", ">Records", "Heard of", ">May spend ₹")
    for device in answer["devices"]:
        since = f" since {_time(device['since_ms'])}" if device["since_ms"] else ""
        why = f": {device['why']}" if device["why"] else ""
        row = (device["device"], str(device["epoch"]), device["customer"], device["state"] + since + why)
        table.add_row(*row, f"{device['acked']:,}", _time(device["seen_ms"]), rupees(device["held"]))
    console.print(table)


def print_retired(answer: Answer, console: Console) -> None:
    console.print(f"Retired since {_time(answer['retired_ms'])}: it gets no more credit.")
    if answer["held"]:
        console.print(
            f"What it spends by {_time(answer['expires_ms'])} and has not reported yet,"
            f" at most ₹{rupees(answer['held'])}, is billed when it reports,"
            " and the wallet may go below zero by so much."
        )


def print_customers(answer: Answer, console: Console) -> None:
    table = make_table("Customer", "Name", ">Balance ₹")
    for customer in answer["customers"]:
        table.add_row(customer["customer"], customer["name"], rupees(customer["balance"]))
    console.print(table)


def _time(time_ms: int) -> str:
    """Indian time, to the minute."""
    return datetime.fromtimestamp(time_ms // 1000, INDIA).strftime("%Y-%m-%d %H:%M")
