"""What the commands print for people: the same answers that --json gives whole."""

from typing import Any

from rich.console import Console
from rich.table import Table

from appliance.topups import terminal


def keys(console: Console, answer: dict[str, Any]) -> None:
    table = _table("id", "name", "begins with", "created", "revoked")
    for key in answer["keys"]:
        table.add_row(str(key["id"]), key["name"], f"{key['hint']}…", key["created"], key["revoked"] or "")
    console.print(table)


def usage(console: Console, answer: dict[str, Any]) -> None:
    table = _table("key", "meter", "requests", "points in", "points out", "₹", right=4)
    for key in answer["keys"]:
        for meter, used in key["meters"].items():
            units = used["units"]
            counts = [str(units.get(unit, 0)) for unit in ("requests", "points_in", "points_out")]
            table.add_row(f"{key['name']} ({key['hint']}…)", meter, *counts, used["cost"])
    table.add_section()
    table.add_row("all", "", str(answer["requests"]), "", "", answer["cost"])
    console.print(f"{answer['since']} to {answer['until']}, days in India")
    console.print(table)


def status(console: Console, answer: dict[str, Any]) -> None:
    table = _table("", "")
    enrolment, credit, sync = answer["enrolment"], answer["credit"], answer["sync"]
    engine = answer["engine"]
    table.add_row("device", answer["device"])
    table.add_row("customer", enrolment["customer"] if enrolment else "none yet: nukkad enrol CODE")
    if credit:
        ended = " (ended)" if credit["expired"] else ""
        table.add_row("credit left", f"₹{credit['left']} of ₹{credit['granted']} and ₹{credit['allowance']} allowance")
        table.add_row("lease", f"until {credit['expires']}{ended}")
    table.add_row("records", f"{sync['records']}, of which the node has billed {sync['billed']}")
    table.add_row("last sync", sync["last"] or "none since the start")
    if sync["failure"]:
        table.add_row("sync fails", sync["failure"])
    table.add_row("engine", f"{'ready' if engine['ready'] else 'not ready'}, {engine['restarts']} restarts")
    for model in answer["models"]:
        table.add_row("model", f"{model['name']} ({', '.join(model['tasks'])}; {model['lane']})")
    for refused in engine["set_aside"]:
        table.add_row("cannot serve", f"{refused['model']}: {refused['reason']}")
    table.add_row("today", f"{answer['today']['requests']} requests, ₹{answer['today']['cost']}")
    console.print(table)


def topup(console: Console, answer: dict[str, Any]) -> None:
    console.print(terminal(answer["link"]), soft_wrap=True)
    console.print(f"₹{answer['amount']}, reference {answer['reference']} ({answer['status']})")
    console.print(answer["link"], soft_wrap=True)
    console.print("Pay it with any UPI app. The credit arrives with the first sync after the payment is confirmed.")


def models(console: Console, answer: dict[str, Any]) -> None:
    table = _table("name", "version", "digest", "tasks", "licence", "")
    for package in answer["models"]:
        if "damaged" in package:
            table.add_row(package["name"], "", package.get("digest", "")[:12], "", "", package["damaged"])
            continue
        serves = "serves" if package["active"] else ""
        tasks = ", ".join(package["tasks"])
        table.add_row(package["name"], package["version"], package["digest"][:12], tasks, package["licence"], serves)
    console.print(table)


def devices(console: Console, answer: dict[str, Any]) -> None:
    table, processor = _table("", ""), answer["processor"]
    table.add_row("processor", f"{processor['model']}, {processor['cores']} cores, {_gib(processor['memory_bytes'])}")
    table.add_row("features", " ".join(processor["features"]) or "none that matter")
    for each in answer["accelerators"]:
        table.add_row(each["kind"], f"{each['vendor']} {each['ids']} at {each['address']}")
    table.add_row("device files", " ".join(answer["device_files"]) or "none")
    table.add_row("NUKKAD_PROVIDER", answer["setting"])
    for name, each in answer["environments"].items():
        what = each["fault"] or f"ONNX Runtime {each['onnxruntime']}: {', '.join(each['providers'])}"
        table.add_row(f"environment {name}", "; ".join([what, *each.get("faults", [])]))
    console.print(table)
    table = _table("provider", "environment", "proven for", "")
    for each in answer["providers"]:
        table.add_row(each["name"], each["environment"], ", ".join(each["families"]), each["state"])
    console.print(table)
    table = _table("package", "provider", "lane", "self-test")
    for each in answer["packages"]:
        left = f"passed; {each['cpu_nodes']} nodes on the processor" if each["cpu_nodes"] else "passed"
        table.add_row(each["name"], each["provider"] or "", each["lane"] or "", each["fault"] or left)
    console.print(table)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _table(*heads: str, right: int = 0) -> Table:
    """What is too wide for its column goes on in the next line: nothing is cut."""
    table = Table(show_header=any(heads), pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place >= len(heads) - right else "left", overflow="fold")
    return table
