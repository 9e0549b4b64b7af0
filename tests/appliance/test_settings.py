"""Settings: read once, bounded, and a wrong one names itself and the fix."""

from pathlib import Path

import pytest

from appliance.settings import OWN_NAMES, SettingsError, describe, from_env


def test_an_empty_environment_gives_the_defaults_that_are_described() -> None:
    settings = from_env({})
    for setting in describe():
        assert str(getattr(settings, setting.name.removeprefix("NUKKAD_").lower())) == setting.default
        assert setting.meaning.endswith(".")


def test_every_setting_is_read() -> None:
    settings = from_env({"NUKKAD_STATE": "/var/lib/nukkad", "NUKKAD_PORT": " 9000 ", "NUKKAD_HOSTS": "a.local, B:1"})
    assert settings.state == Path("/var/lib/nukkad")
    assert settings.store == Path("/var/lib/nukkad/store")
    assert settings.port == 9000
    assert settings.host_names == ("a.local", "b:1", *OWN_NAMES)
    assert from_env({"NUKKAD_HOST": "fd00::7"}).host_names == (*OWN_NAMES, "[fd00::7]")


@pytest.mark.parametrize("value", ["0", "65536", "-1", "1.5", "x", "९०००", "9" * 5000, "1e3", "0x50"])
def test_a_number_out_of_bounds_is_refused_by_name(value: str) -> None:
    with pytest.raises(SettingsError, match=r"NUKKAD_PORT.*from 1 to 65535"):
        from_env({"NUKKAD_PORT": value})


def test_an_empty_value_is_refused() -> None:
    with pytest.raises(SettingsError, match="NUKKAD_HOST: empty; unset it"):
        from_env({"NUKKAD_HOST": " "})


def test_a_misspelt_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(SettingsError, match="did you mean NUKKAD_PORT"):
        from_env({"NUKKAD_PROT": "1"})


def test_names_of_the_node_and_the_builder_are_left_alone() -> None:
    assert from_env({"NUKKAD_NODE_PORT": "x", "NUKKAD_CACHE": "y", "HOME": "z"}) == from_env({})


def test_bounds_reach_the_engine() -> None:
    engine = from_env({"NUKKAD_SLOTS": "3", "NUKKAD_THREADS": "2", "NUKKAD_CONTEXT_TOKENS": "64"}).engine
    assert (engine.slots, engine.threads, engine.context_tokens) == (3, 2, 64)
    assert from_env({}).engine.threads >= 1
