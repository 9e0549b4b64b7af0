"""The installed services under a real systemd, with all their hardening, and unplugged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client_count import ClientCount, counted, points
from tests.support.machine import Machine

pytestmark = pytest.mark.system

BOX = "http://127.0.0.1:8765"
NODE = "http://127.0.0.1:8471"
UNITS = ("nukkad.service", "nukkad-node.service")
EXPOSURE_MAX = 2.0


def is_ready(machine: Machine, url: str) -> bool:
    try:
        return bool(machine.ask(f"{url}/readyz"))
    except AssertionError:
        return False


def wait_ready(machine: Machine) -> None:
    for url in (BOX, NODE):
        machine.wait_until(lambda url=url: is_ready(machine, url), f"{url} is ready")  # type: ignore[misc]


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_no_fault_in_a_unit(machine: Machine, unit: str) -> None:
    assert machine.run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}") == ""


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(machine: Machine, unit: str) -> None:
    words = ["security", "--offline=true", f"--threshold={int(EXPOSURE_MAX * 10)}", f"/etc/systemd/system/{unit}"]
    last = machine.run("systemd-analyze", *words).splitlines()[-1]
    assert float(last.split(":")[1].split()[0]) <= EXPOSURE_MAX


def test_box_and_node_start_at_boot_serve_and_bill(machine: Machine) -> None:
    wait_ready(machine)
    machine.run("nukkad", "node", "customer", "add", "Sharma Store", "--id", "sharma")
    code = json.loads(machine.run("nukkad", "node", "enrol", "sharma", "--json"))["code"]
    machine.run("nukkad", "enrol", code)
    machine.run("nukkad", "sync")
    key = machine.run("nukkad", "keys", "create", "till").split()[-1]
    count = ClientCount(json.loads(machine.run("nukkad", "node", "prices", "--json"))["rates"])
    answer = machine.ask(f"{BOX}/v1/embeddings", {"model": "tiny-embed", "input": "नमस्ते"}, key)
    count.add("embedding", requests=1, points_in=points("नमस्ते"))
    assert len(answer["data"][0]["embedding"]) == 24
    question: dict[str, object] = {"model": "tiny-chat", "prompt": "a", "max_tokens": 4}
    (choice,) = machine.ask(f"{BOX}/v1/completions", question, key)["choices"]
    count.add("completion", requests=1, points_in=points("a"), points_out=points(choice["text"]))
    machine.run("nukkad", "sync")
    statement = json.loads(machine.run("nukkad", "node", "statement", "sharma", "--json"))
    billed = counted([(line["meter"], line["unit"], line["quantity"]) for line in statement["lines"]])
    assert (statement["calls"], billed, statement["usage"]) == (count.calls, count.units, count.cost)
    assert count.cost > 0
    assert "nk_" not in machine.run("journalctl", "--no-pager", "-u", "nukkad", "-u", "nukkad-node")


def test_a_killed_service_comes_back(machine: Machine) -> None:
    wait_ready(machine)
    for unit in UNITS:
        machine.run("systemctl", "kill", "--signal=KILL", unit)
    restarted = "NRestarts=1"
    for unit in UNITS:
        machine.wait_until(
            lambda unit=unit: restarted in machine.run("systemctl", "show", "-p", "NRestarts", unit),  # type: ignore[misc]
            f"{unit} is restarted",
        )
    wait_ready(machine)


def test_services_stop_in_order(machine: Machine) -> None:
    wait_ready(machine)
    machine.run("systemctl", "stop", *UNITS)
    for unit in UNITS:
        shown = machine.run("systemctl", "show", "-p", "Result,ExecMainStatus", unit).split()
        assert sorted(shown) == ["ExecMainStatus=0", "Result=success"]
    machine.run("systemctl", "start", *UNITS)
    wait_ready(machine)


def test_the_state_is_private_and_the_command_line_says_so(machine: Machine) -> None:
    refused = machine.run("nukkad", "status", check=False, user="nobody")
    assert "run: sudo nukkad status" in refused
    assert "Permission denied" in machine.run("ls", "/var/lib/nukkad/box", check=False, user="nukkad-node")
    assert "Permission denied" in machine.run("ls", "/var/lib/nukkad/node", check=False, user="nukkad")
    assert "Permission denied" in machine.run("cat", "/etc/nukkad/node.env", check=False, user="nukkad")


def install(machine: Machine, check: bool = True) -> str:
    return machine.run("/srv/source/packaging/install.sh", "--with-node", "--wheels", "/srv/wheels", check=check)


def install_changed(machine: Machine, changes: dict[str, Callable[[str], str]]) -> str:
    """Installs from the sources with some files changed or added, which must fail, and puts the sources back."""
    source = machine.folder / "srv/source"
    honest = {path: (source / path).read_text() if (source / path).exists() else None for path in changes}
    for path, change in changes.items():
        (source / path).write_text(change(honest[path] or ""))
    try:
        told = install(machine, check=False)
    finally:
        for path, text in honest.items():
            (source / path).unlink() if text is None else (source / path).write_text(text)
    assert "does not answer" in told and "next: " in told
    return told


def broken(text: str) -> str:
    return f'raise SystemExit("broken")\n{text}'


MIGRATION = "sync/node/migrations/0999_later.sql"
UNIT = "packaging/systemd/nukkad.service"


@pytest.mark.parametrize(
    "fault",
    [
        {"appliance/run.py": broken, UNIT: lambda text: f"# changed\n{text}"},
        {UNIT: lambda text: text.replace("/bin/nukkad serve", "/bin/absent serve")},
    ],
    ids=["the box dies", "the box's unit names no program"],
)
def test_a_release_that_cannot_serve_gives_way_to_the_one_before(
    machine: Machine, fault: dict[str, Callable[[str], str]]
) -> None:
    """The node answers again too, for the new one had no chance to migrate the database."""
    wait_ready(machine)
    before = machine.run("readlink", "/opt/nukkad/current").strip()
    files = ("/etc/systemd/system/nukkad.service", "/usr/local/bin/nukkad")
    kept = machine.run("cat", *files)
    more = {"packaging/nukkad.sh": lambda text: f"{text}# changed\n", MIGRATION: lambda _: "create table later ();\n"}
    told = install_changed(machine, fault | more)
    assert "install: nukkad.service of" in told and f"{before} runs again and answers" in told
    assert machine.run("readlink", "/opt/nukkad/current").strip() == before
    assert machine.run("cat", *files) == kept
    wait_ready(machine)
    complete = [marker.parent.name for marker in (machine.folder / "opt/nukkad/releases").glob("*/complete")]
    assert complete == [Path(before).name]


def test_a_node_that_has_migrated_its_database_goes_back_with_the_copy_alone(machine: Machine) -> None:
    """The operator is told so, and what docs/install.md says to do then helps."""
    wait_ready(machine)
    before = machine.run("readlink", "/opt/nukkad/current").strip()
    machine.run("systemctl", "stop", "nukkad-node")
    machine.run("test", "!", "-e", "/var/lib/nukkad/node.before")
    machine.run("cp", "-aT", "/var/lib/nukkad/node", "/var/lib/nukkad/node.before")
    fault = {
        MIGRATION: lambda _: "create table later ();\n",
        "sync/node/serve.py": lambda text: text.replace(
            "asyncio.run(", 'raise SystemExit("broken")\n            asyncio.run('
        ),
    }
    told = install_changed(machine, fault)
    assert "install: nukkad-node.service of" in told
    assert f"{before} is back in place, but does not answer: nukkad-node.service. The new node has migrated" in told
    assert "next: put back the copy of the database" in told and "docs/install.md" in told
    assert machine.run("readlink", "/opt/nukkad/current").strip() == before
    machine.wait_until(lambda: is_ready(machine, BOX), "the box is ready")
    assert not is_ready(machine, NODE)
    machine.run("systemctl", "stop", "nukkad-node")
    machine.run("mv", "-T", "/var/lib/nukkad/node", "/var/lib/nukkad/node.migrated")
    machine.run("cp", "-aT", "/var/lib/nukkad/node.before", "/var/lib/nukkad/node")
    machine.run("systemctl", "start", "nukkad-node")
    wait_ready(machine)


def test_installing_again_keeps_release_settings_and_state(machine: Machine) -> None:
    """Also where the node listens on a port of its own, at which the script must ask it."""
    wait_ready(machine)
    before = machine.run("readlink", "/opt/nukkad/current")
    (machine.folder / "etc/nukkad/box.env").write_text("# my own\nNUKKAD_SLOTS=4\n")
    (machine.folder / "etc/nukkad/node.env").write_text("NUKKAD_NODE_PORT = '8472'\n")
    device = json.loads(machine.run("nukkad", "status", "--json"))["device"]
    told = install(machine)
    assert "is complete already" in told and "Running: nukkad.service nukkad-node.service" in told
    assert machine.run("readlink", "/opt/nukkad/current") == before
    assert machine.run("cat", "/etc/nukkad/box.env") == "# my own\nNUKKAD_SLOTS=4\n"
    assert is_ready(machine, "http://127.0.0.1:8472")
    (machine.folder / "etc/nukkad/node.env").write_text("")
    machine.run("systemctl", "restart", "nukkad-node")
    wait_ready(machine)
    assert json.loads(machine.run("nukkad", "status", "--json"))["device"] == device
