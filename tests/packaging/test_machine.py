"""The installed services under a real systemd, with all their hardening, and unplugged."""

import json
from pathlib import Path

import pytest

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
    answer = machine.ask(f"{BOX}/v1/embeddings", {"model": "tiny-embed", "input": "नमस्ते"}, key)
    assert len(answer["data"][0]["embedding"]) == 24
    question: dict[str, object] = {"model": "tiny-chat", "prompt": "a", "max_tokens": 4}
    assert machine.ask(f"{BOX}/v1/completions", question, key)["choices"]
    machine.run("nukkad", "sync")
    statement = json.loads(machine.run("nukkad", "node", "statement", "sharma", "--json"))
    assert "nk_" not in machine.run("journalctl", "--no-pager", "-u", "nukkad", "-u", "nukkad-node")
    assert statement


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


def test_installing_again_keeps_release_settings_and_state(machine: Machine) -> None:
    wait_ready(machine)
    before = machine.run("readlink", "/opt/nukkad/current")
    (machine.folder / "etc/nukkad/box.env").write_text("# my own\nNUKKAD_SLOTS=4\n")
    device = json.loads(machine.run("nukkad", "status", "--json"))["device"]
    told = install(machine)
    assert "is complete already" in told and "Running: nukkad.service nukkad-node.service" in told
    assert machine.run("readlink", "/opt/nukkad/current") == before
    assert machine.run("cat", "/etc/nukkad/box.env") == "# my own\nNUKKAD_SLOTS=4\n"
    wait_ready(machine)
    assert json.loads(machine.run("nukkad", "status", "--json"))["device"] == device


def test_a_release_that_cannot_serve_gives_way_to_the_one_before(machine: Machine) -> None:
    wait_ready(machine)
    before = machine.run("readlink", "/opt/nukkad/current")
    program = machine.folder / "srv/source/appliance/run.py"
    honest = program.read_text()
    program.write_text(f'raise SystemExit("broken")\n{honest}')
    try:
        told = install(machine, check=False)
    finally:
        program.write_text(honest)
    assert "does not answer" in told and f"{before.strip()} runs again" in told
    assert machine.run("readlink", "/opt/nukkad/current") == before
    wait_ready(machine)
    complete = [marker.parent.name for marker in (machine.folder / "opt/nukkad/releases").glob("*/complete")]
    assert complete == [Path(before.strip()).name]
