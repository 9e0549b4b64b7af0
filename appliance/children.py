"""Two commands of ours as child processes: started with a log each, watched, and ended together."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from appliance.expected import OperatorError

STOP_S = 25  # a child's own bounds on stopping are shorter
_PR_SET_PDEATHSIG = 1


class ChildError(OperatorError):
    """A child did not start or ended by itself; the message names it and its log."""


class Children:
    """Leaving the `with` ends all of them, newest first, and waits. They also end when this process is killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}

    def start(self, name: str, words: list[str], log: Path) -> None:
        """Run `nukkad WORDS…`. The log is begun anew, so that it stays as long as one run."""
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - our own command
                command(words),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them in order.
                preexec_fn=partial(_end_with_parent, os.getpid()),  # noqa: PLW1509 - safe: this process has one thread, so no lock can be held across the fork
            )
        self._running[name] = (process, log)

    def wait_ready(self, name: str, url: str, seconds: float) -> None:
        """Raises ChildError when it ends first or is not ready in time."""
        deadline = time.monotonic() + seconds
        while not _answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise ChildError(f"{name} is not ready after {seconds:g} s; see {self._running[name][1]}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raises ChildError when one has ended."""
        for name, (process, log) in self._running.items():
            if process.poll() is not None:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise ChildError(f"{name} has ended (exit {process.returncode}); {log}: {''.join(last)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # A second Ctrl-C must not leave one of them behind.
        for process, _ in reversed(self._running.values()):
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def command(words: list[str]) -> list[str]:
    """`nukkad WORDS…` in this Python environment."""
    return [sys.executable, "-m", "appliance.cli", *words]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It was gone before the line above.
        os._exit(1)
