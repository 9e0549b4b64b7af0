"""Children of `nukkad up`: watched, ended together, and gone when their parent is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.children import ChildError, Children
from tests.support.house import answers, free_port, wait_until


def environment(folder: Path, port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUKKAD_")}
    return {**kept, "NUKKAD_STATE": str(folder / "box"), "NUKKAD_PORT": str(port)}


def test_a_child_that_ends_is_named_with_the_last_line_of_its_log(tmp_path: Path) -> None:
    with Children(environment(tmp_path, 1)) as children:
        children.start("keys", ["keys", "revoke", "7"], tmp_path / "log")
        with pytest.raises(ChildError, match=r"keys has ended \(exit 1\).*no key has the id 7"):
            children.wait_ready("keys", "http://127.0.0.1:9/", 60)


@pytest.mark.e2e
def test_a_box_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/healthz"
    with Children(environment(tmp_path, port)) as children:
        children.start("box", ["serve"], tmp_path / "log")
        children.wait_ready("box", url, 60)
    assert not answers(url)

    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time; from pathlib import Path; from appliance.children import Children\n"
            "with Children(dict(os.environ)) as children:\n"
            "    children.start('box', ['serve'], Path(sys.argv[1])); time.sleep(600)",
            str(tmp_path / "log"),
        ],
        env=environment(tmp_path, port),
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(url), "the box is up")
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not answers(url), "the box has ended")
