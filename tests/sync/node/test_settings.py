from pathlib import Path

import pytest

from sync.node.errors import NodeError
from sync.node.settings import Settings, describe, read_settings


def test_nothing_set_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"HOME": "/", "NUKKAD_NODE_URL": "http://127.0.0.1:8471", "NUKKAD_PORT": "1"}) == Settings()


@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_value_is_refused(value: str) -> None:
    with pytest.raises(NodeError, match="NUKKAD_NODE_PORT: empty"):
        read_settings({"NUKKAD_NODE_PORT": value})


def test_a_misspelt_name_is_refused() -> None:
    with pytest.raises(NodeError, match="did you mean NUKKAD_NODE_PAYEE_VPA"):
        read_settings({"NUKKAD_NODE_PAYE_VPA": "shop@bank"})


def test_every_setting_describes_itself() -> None:
    described = {setting.name: setting for setting in describe()}
    assert described["NUKKAD_NODE_PORT"].default == "8471"
    assert described["NUKKAD_NODE_DSN"].default == "unset"
    assert len(described) == len(Settings.__dataclass_fields__)
    assert all(setting.meaning.endswith(".") for setting in described.values())


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8471"), ("::", "http://[::1]:8471"), ("10.0.0.5", "http://10.0.0.5:8471")],
)
def test_the_address_of_a_client_on_this_machine(host: str, url: str) -> None:
    assert Settings(host=host).url == url


def test_every_setting_is_read() -> None:
    values = {
        "state": "/srv/node",
        "host": "0.0.0.0",
        "port": "9000",
        "callers": "100",
        "header_s": "5",
        "dsn": "host=db",
        "connections": "20",
        "allowance_paise": "0",
        "lease_hours": "168",
        "payee_vpa": "shop@bank",
        "payee_name": "Sharma दुकान",
        "prices": "/srv/prices.json",
    }
    assert set(values) == set(Settings.__dataclass_fields__)
    settings = read_settings({f"NUKKAD_NODE_{name.upper()}": value for name, value in values.items()})
    assert settings.url == "http://127.0.0.1:9000"
    assert settings == Settings(
        state=Path("/srv/node"),
        host="0.0.0.0",
        port=9000,
        callers=100,
        header_s=5,
        dsn="host=db",
        connections=20,
        allowance_paise=0,
        lease_hours=168,
        payee_vpa="shop@bank",
        payee_name="Sharma दुकान",
        prices=Path("/srv/prices.json"),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"), ("PORT", "65536"), ("PORT", "http"), ("PORT", "²"), ("CONNECTIONS", "1"),
        ("ALLOWANCE_PAISE", "-1"),
        ("ALLOWANCE_PAISE", "20.00"), ("LEASE_HOURS", "0"), ("PAYEE_VPA", "shop"),
        ("PAYEE_VPA", "a b@bank"), ("PAYEE_NAME", "a\nb"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(NodeError, match=f"NUKKAD_NODE_{name}: must be"):
        read_settings({f"NUKKAD_NODE_{name}": value})
