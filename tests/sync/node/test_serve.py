"""A node as a process: the command line, clean stops, kills, and starting again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.e2e

CLI = [sys.executable, "-c", "from sync.node.cli import app; app()"]


class Site:
    """One state folder and port, and the node that runs on them, if any."""

    def __init__(self, state: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.state = state
        self.environment = {**os.environ, "NUKKAD_NODE_STATE": str(state), "NUKKAD_NODE_PORT": str(self.port)}
        self.node: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str] = CLI) -> None:
        self.node = subprocess.Popen([*command, "serve"], env=self.environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not self.is_ready():
            assert self.node.poll() is None and time.monotonic() < deadline, "the node does not start"
            time.sleep(0.05)

    def stop(self, number: int) -> tuple[int, str]:
        """Status and log."""
        assert self.node is not None
        self.node.send_signal(number)
        _, log = self.node.communicate(timeout=60)
        return self.node.returncode, log.decode()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def run(self, *words: str) -> tuple[int, str]:
        """Status and what was printed, on either stream."""
        done = subprocess.run([*CLI, *words], env=self.environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def postgres(self) -> list[int]:
        """The processes that work on this folder's data."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").samefile(self.state / "postgres" / "data"):
                    found.append(int(process.name))
            except OSError:
                continue
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "node")
    yield site
    if site.node is not None and site.node.poll() is None:
        site.stop(signal.SIGTERM)


def test_the_command_line_from_the_first_customer_to_the_trial_balance(site: Site) -> None:
    status, said = site.run("statement", "sharma")
    assert status == 1 and "nukkad node serve" in said
    site.start()
    assert site.run("customer", "add", "Sharma Store", "--id", "sharma") == (0, "sharma\n")
    status, said = site.run("enrol", "sharma", "--json")
    assert status == 0 and len(json.loads(said)["code"]) == 16
    assert "sharma" in site.run("customer", "list")[1]
    assert site.run("topups", "sharma")[0] == 0
    status, said = site.run("confirm", "NK123", "412345678901", "--amount", "500.50")
    assert status == 1 and "no such top-up" in said
    assert "must be rupees" in site.run("confirm", "NK123", "412345678901", "--amount", "5.001")[1]
    assert "no name" in site.run("statement", "../../readyz")[1]
    status, said = site.run("statement", "sharma", "--json")
    assert status == 0 and json.loads(said)["closing"] == 0
    assert "Closing balance ₹0.00" in site.run("statement", "sharma")[1]
    words = ("adjust", "sharma", "-2.50", "--reason", "counted twice", "--id", "ticket-1")
    assert site.run(*words) == (0, "Posted: ₹-2.50 for sharma.\n")
    assert "nothing was posted now" in site.run(*words)[1]
    said = site.run("statement", "sharma")[1]
    assert "counted twice" in said and "is not over: this statement may still change." in said
    assert site.run("devices", "sharma", "--json") == (0, '{\n  "devices": []\n}\n')
    assert "May spend" in site.run("devices")[1]
    assert site.run("retire", "00" * 16) == (
        1,
        "nukkad node: there is no such device: `nukkad node devices` names them\n",
    )
    assert site.run("customer", "list", "--after", "sharma", "--json") == (0, '{\n  "customers": []\n}\n')
    assert "Balanced." in site.run("trial-balance")[1]
    assert "points_out" in site.run("prices")[1]
    status, log = site.stop(signal.SIGTERM)
    assert status == 0 and "Traceback" not in log
    assert (site.state / "operator.token").read_text() not in log
    status, said = site.run("prices")
    assert status == 1 and "nukkad node serve" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_clean_stop_leaves_no_process(site: Site, number: int) -> None:
    site.start()
    assert site.postgres()
    status, log = site.stop(number)
    assert status == 0 and "Traceback" not in log
    assert site.postgres() == []


def test_what_was_answered_survives_kills(site: Site) -> None:
    site.start()
    site.run("customer", "add", "One", "--id", "one")
    assert site.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    site.start()
    site.run("customer", "add", "Two", "--id", "two")
    for process in site.postgres():
        os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while site.run("customer", "list")[0] != 0:
        assert time.monotonic() < deadline, "the node does not come back"
    listed = json.loads(site.run("customer", "list", "--json")[1])["customers"]
    assert [customer["customer"] for customer in listed] == ["one", "two"]
    for process in site.postgres():
        os.kill(process, signal.SIGKILL)
    site.stop(signal.SIGTERM)
    site.start()
    assert "two" in site.run("customer", "list")[1]


def test_a_node_that_lost_its_database_for_good_ends_with_an_error(site: Site) -> None:
    """So that whoever supervises it starts it again, and again, until what was wrong is mended."""
    hasty = "from sync.node import postgres; postgres.RESTART_WAITS_S = (0, 0); "
    site.start([sys.executable, "-c", hasty + CLI[-1]])
    control = site.state / "postgres" / "data" / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    for process in site.postgres():
        os.kill(process, signal.SIGKILL)
    assert site.node is not None
    _, log = site.node.communicate(timeout=120)
    assert site.node.returncode == 1
    assert b"PostgreSQL died too often" in log and b"Traceback" not in log
    assert site.postgres() == []
    control.with_suffix(".away").rename(control)
    site.start()


def test_a_second_node_is_refused_by_name(site: Site, tmp_path: Path) -> None:
    site.start()
    status, said = site.run("serve")
    assert status == 1 and "another node is running" in said
    other = Site(tmp_path / "other")
    other.environment["NUKKAD_NODE_PORT"] = str(site.port)
    status, said = other.run("serve")
    assert status == 1 and "NUKKAD_NODE_PORT" in said
    other.environment["NUKKAD_NODE_PRICES"] = str(tmp_path / "none.json")
    other.environment["NUKKAD_NODE_PORT"] = str(other.port)
    status, said = other.run("serve")
    assert status == 1 and "NUKKAD_NODE_PRICES" in said
    assert other.postgres() == []


def test_callers_who_do_not_speak_are_bounded_in_number_and_time(site: Site) -> None:
    """Two of two connections are held by callers who never end their headers; the third is answered all the same."""
    site.environment |= {"NUKKAD_NODE_CALLERS": "2", "NUKKAD_NODE_HEADER_S": "2"}
    site.start()
    held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(2)]
    for one in held:
        one.settimeout(60)
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: node\r\n")
    answer = httpx.get(f"http://127.0.0.1:{site.port}/healthz", timeout=60)
    assert answer.status_code == 200
    # The third waited for a place, so at least one place had been taken from those who held it.
    ended = 0
    for one in held:
        with one:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                ended += one.recv(4096)[:12] in (b"", b"HTTP/1.1 408")
    assert ended


def test_who_holds_a_connection_does_not_hold_up_the_stop(site: Site) -> None:
    site.environment["NUKKAD_NODE_HEADER_S"] = "600"
    site.start()
    with socket.create_connection(("127.0.0.1", site.port)) as held:
        held.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert httpx.get(f"http://127.0.0.1:{site.port}/healthz").status_code == 200
        status, log = site.stop(signal.SIGTERM)
    assert status == 0 and "Traceback" not in log
    assert site.postgres() == []
