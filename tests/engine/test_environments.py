import sys
from pathlib import Path

import pytest

from appliance.engine import environments
from appliance.engine.environments import EnvironmentFailed, install, lockable, python_of
from appliance.engine.placement import read_placement
from appliance.engine.providers import CPU, PROVIDERS

OPENVINO = read_placement("OpenVINOExecutionProvider:CPU")


def test_every_lock_is_of_an_environment_that_a_provider_lives_in() -> None:
    assert set(lockable()) <= {provider.environment for provider in PROVIDERS}
    for name in lockable():
        text = (environments.LOCKS / f"{name}.txt").read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text


def test_the_processor_is_served_from_the_boxs_own(tmp_path: Path) -> None:
    assert python_of(tmp_path, read_placement(CPU)) == Path(sys.executable)


def test_what_is_not_installed_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="nukkad devices install openvino"):
        python_of(tmp_path, OPENVINO)
    with pytest.raises(EnvironmentFailed, match=r"docs/devices.md"):
        python_of(tmp_path, read_placement("VitisAIExecutionProvider"))


def test_there_is_nothing_to_install_under_another_name(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="openvino"):
        install(tmp_path, "nothing")
