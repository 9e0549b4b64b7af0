"""A node and a box as real processes on loopback, driven through the command line as a person would."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

NUKKAD = str(Path(sys.executable).parent / "nukkad")
READY_SECONDS_MAX = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


class House:
    """One customer's box and the node, with their state under `root`. `packages`: a store to copy the models from."""

    def __init__(self, root: Path, packages: Path, **settings: str) -> None:
        self.root = root
        self.box_port, self.node_port = free_port(), free_port()
        self.box_url = f"http://127.0.0.1:{self.box_port}"
        self.node_url = f"http://127.0.0.1:{self.node_port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("NUKKAD_")},
            "NUKKAD_STATE": str(root / "box"),
            "NUKKAD_PORT": str(self.box_port),
            "NUKKAD_NODE_URL": self.node_url,
            "NUKKAD_NODE_STATE": str(root / "node"),
            "NUKKAD_NODE_PORT": str(self.node_port),
            "NUKKAD_NODE_PAYEE_VPA": "nukkad@upi",
            **settings,
        }
        self.node: subprocess.Popen[bytes] | None = None
        self.box: subprocess.Popen[bytes] | None = None
        shutil.copytree(packages, root / "box" / "store", symlinks=True)
        (root / "box").chmod(0o700)

    def nukkad(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        run = subprocess.run(
            [NUKKAD, *words],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or run.returncode == 0, f"nukkad {' '.join(words)}: {run.stdout}{run.stderr}"
        return run

    def ask(self, *words: str) -> Any:
        """A command's --json answer."""
        return json.loads(self.nukkad(*words, "--json").stdout)

    def start_node(self) -> None:
        self.node = self._start("node", "serve")
        wait_until(lambda: answers(f"{self.node_url}/readyz"), "the node is ready")

    def start_box(self, prefix: Sequence[str] = ()) -> None:
        self.box = self._start("serve", prefix=prefix)
        if not prefix:
            wait_until(lambda: answers(f"{self.box_url}/readyz"), "the box is ready")

    def _start(self, *words: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        log = (self.root / f"{words[0]}.log").open("ab")
        with log:
            return subprocess.Popen(
                [*prefix, NUKKAD, *words],
                env=self.environment,
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, process: "subprocess.Popen[bytes] | None") -> None:
        """As Ctrl-C does; it must end by itself and cleanly."""
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()

    def kill_box(self) -> None:
        assert self.box is not None
        self.box.kill()
        self.box.wait()

    def close(self) -> None:
        try:
            self.stop(self.box)
        finally:
            self.stop(self.node)

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.root.glob("*.log"))
