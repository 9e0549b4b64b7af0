from pathlib import Path

import pytest

from sync.node.errors import NodeError
from sync.node.settings import Settings, read_settings


def test_nothing_set_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"NUKKAD_NODE_PORT": ""}) == Settings()


def test_every_setting_is_read() -> None:
    values = {
        "state": "/srv/node",
        "host": "0.0.0.0",
        "port": "9000",
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
