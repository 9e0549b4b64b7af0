"""The examples of the docs run as they stand, and so do those that `nukkad up` prints."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.house import NUKKAD, House, free_port

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> list[tuple[str, str]]:
    """(language, code) of a page, without the lines that only set the two variables."""
    found = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    return [(language, code) for language, code in found if not code.startswith("export ")]


def run(language: str, code: str, environment: dict[str, str], folder: Path = ROOT) -> str:
    command = (
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", code] if language == "python" else ["sh", "-ec", code]
    )
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_example_of_the_api_page_runs(house: House) -> None:
    key = house.ask("keys", "create", "docs")["secret"]
    environment = {**os.environ, "NUKKAD_URL": house.box_url, "NUKKAD_KEY": key}
    printed = [run(language, code, environment) for language, code in examples(ROOT / "docs" / "api.md")]
    chat, embeddings, search = printed
    assert chat.strip()
    assert '"embedding"' in embeddings
    assert "8 in the morning" in search


@pytest.fixture
def environment(tmp_path: Path, starter_store: Path) -> dict[str, str]:
    """Of a machine where the starters are built and nothing has run yet."""
    shutil.copytree(starter_store, tmp_path / "box" / "store", symlinks=True)
    (tmp_path / "box").chmod(0o700)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("NUKKAD_")},
        "NUKKAD_STATE": str(tmp_path / "box"),
        "NUKKAD_PORT": str(free_port()),
        "NUKKAD_NODE_STATE": str(tmp_path / "node"),
        "NUKKAD_NODE_PORT": str(free_port()),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def running(environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([NUKKAD, "up"], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    yield process
    watchdog.cancel()
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_what_up_prints_runs_as_printed_and_ctrl_c_ends_it_cleanly(running: "subprocess.Popen[str]") -> None:
    assert running.stdout is not None
    printed = ""
    for line in running.stdout:
        printed += line
        if "Ctrl-C" in line:
            break
    assert "Nukkad is ready" in printed
    curl = re.search(r"^curl .*?'$", printed, re.MULTILINE | re.DOTALL)
    python = re.search(r"^\S+ - <<'END'\n.*?^END$", printed, re.MULTILINE | re.DOTALL)
    assert curl is not None
    assert python is not None
    assert '"embedding"' in run("sh", curl[0], dict(os.environ))
    assert run("sh", python[0], dict(os.environ)).strip()
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 0


def test_the_demo_s_statement_equals_what_the_client_counted(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [NUKKAD, "demo"], env=environment, capture_output=True, text=True, timeout=200, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Equal, to the code point and the paisa." in done.stdout
