"""A second provider, for real: the OpenVINO build on the processor, in an environment of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from appliance.engine import environments
from appliance.engine.environments import LOCKS, EnvironmentFailed, install, installed, python_of
from appliance.engine.placement import read_placement
from appliance.engine.process import EngineProcess
from appliance.engine.protocol import EmbedRequest
from appliance.engine.settings import EngineSettings
from tests.conftest import Starters
from tests.engine.conftest import READY_S, running
from tests.support.machine import CACHE, make_once
from tests.support.tiny_models import install as install_package
from tests.support.tiny_models import write_chat

pytestmark = pytest.mark.models

EMBED, PROVIDER = "multilingual-e5-small", "OpenVINOExecutionProvider:CPU"
TEXTS = ("दुकान कब खुलती है?", "கடை எப்போது திறக்கும்?", "When does the shop open? " * 20, "దుకాణం")


def fetch(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    subprocess.run([*command, "-r", str(LOCKS / "openvino.txt"), "-d", str(folder)], check=True)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the environment lies; its wheel (84 MB) is fetched once."""
    root = tmp_path_factory.mktemp("engines")
    install(root, "openvino", make_once(CACHE / "engine-openvino-1.24.1", fetch))
    return root


@pytest.fixture(scope="module")
def store(starters: Starters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("openvino")
    install_package(root / "store", starters.package(EMBED), write_chat(root / "chat"))
    return root / "store"


async def test_an_encoder_serves_on_openvino_and_answers_as_on_the_processor(engines: Path, store: Path) -> None:
    request = EmbedRequest(EMBED, TEXTS, "query")
    async with running(store, EngineSettings()) as engine:
        expected = await engine.embed(request)
    elsewhere = EngineProcess(
        store, EngineSettings(provider=PROVIDER), str(python_of(engines, read_placement(PROVIDER)))
    )
    await elsewhere.start()
    try:
        await elsewhere.wait_ready(READY_S)
        (info,) = await elsewhere.models()
        result = await elsewhere.embed(request)
        ((aside, reason),) = (await elsewhere.health()).set_aside
    finally:
        await elsewhere.stop()
    assert (info.name, info.provider, info.lane) == (EMBED, PROVIDER, "int8")
    assert 0 < info.cpu_nodes < 50, "attention and the table of words are left to the processor, and told"
    assert (aside, "has not been proven for a decoder" in reason) == ("tiny-chat", True)
    assert result.tokens == expected.tokens
    assert np.sum(result.vectors * expected.vectors, axis=1).min() > 0.98


async def test_the_boxs_own_build_refuses_it(store: Path) -> None:
    engine = EngineProcess(store, EngineSettings(provider=PROVIDER))
    await engine.start()
    try:
        await engine.wait_ready(READY_S)
        assert await engine.models() == ()
        reasons = dict((await engine.health()).set_aside)
    finally:
        await engine.stop()
    assert "OpenVINOExecutionProvider:CPU is not among" in reasons[EMBED]


def test_an_environment_lies_over_the_boxs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty lock: nothing to fetch. A lock that changes makes it stale."""
    (tmp_path / "locks").mkdir()
    lock = tmp_path / "locks" / "openvino.txt"
    lock.write_text("")
    monkeypatch.setattr(environments, "LOCKS", tmp_path / "locks")
    folder = install(tmp_path / "engines", "openvino", tmp_path)
    assert installed(tmp_path / "engines") == ("openvino",)
    python = python_of(tmp_path / "engines", read_placement(PROVIDER))
    where = subprocess.run(
        [python, "-P", "-c", "import sys, numpy; print(sys.prefix, numpy.__file__)"],
        check=True,
        capture_output=True,
        text=True,
    )
    prefix, found = where.stdout.split()
    assert Path(prefix) == folder
    assert not Path(found).is_relative_to(folder)
    lock.write_text("# another release\n")
    assert installed(tmp_path / "engines") == ()


def test_a_failed_installation_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "openvino.txt").write_text(f"nowhere==1 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(environments, "LOCKS", tmp_path / "locks")
    with pytest.raises(EnvironmentFailed, match="nowhere"):
        install(tmp_path / "engines", "openvino", tmp_path)
    assert list((tmp_path / "engines").iterdir()) == []
