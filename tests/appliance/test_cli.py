"""The commands, as a person types them: on a stopped box, on a running one, and when something is wrong."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from appliance import cli, packages, tables
from appliance.address import AddressError
from appliance.admin import AdminError
from appliance.settings import Settings, SettingsError
from appliance.store.keys import KeyRefused
from models.errors import PackageError
from models.store import Store
from sync.errors import NodeError
from tests.support.box import Served, Street, served
from tests.support.tiny_models import install, write_embed

runner = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUKKAD_STATE", str(tmp_path / "box"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "box"


def said(*words: str) -> str:
    result = runner.invoke(cli.app, [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def answered(*words: str) -> dict[str, object]:
    return dict(json.loads(said(*words, "--json")))


def refused(kind: type[Exception], *words: str) -> str:
    with pytest.raises(kind) as caught:
        runner.invoke(cli.app, [*words], catch_exceptions=False)
    assert isinstance(caught.value, cli.EXPECTED)
    return str(caught.value)


def test_keys_work_on_a_stopped_box(folder: Path) -> None:
    secret = said("keys", "create", "counter").strip()
    assert secret.startswith("nk_")
    assert len(secret) == 67
    assert secret[:9] in said("keys", "list")
    assert secret not in said("keys", "list")
    assert answered("keys", "revoke", "1")["revoked"] is not None
    assert "99" in refused(KeyRefused, "keys", "revoke", "99")


def test_packages_work_on_a_stopped_box(folder: Path) -> None:
    assert answered("models", "list") == {"models": []}
    refused(PackageError, "models", "install", "/nowhere")
    refused(PackageError, "models", "rollback", "x")
    assert "models list" in refused(AdminError, "models", "activate", "x", "abc")
    assert "models list" in refused(AdminError, "models", "remove", "abc")
    refused(PackageError, "models", "deactivate", "x")


def test_commands_on_a_box_that_does_not_run_say_how_to_start_it(folder: Path) -> None:
    for words in (("status",), ("usage",), ("sync",), ("topup", "500")):
        assert "nukkad serve" in refused(AdminError, *words)


def test_enrolling_a_stopped_box_needs_a_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUKKAD_NODE_URL", "http://127.0.0.1:9")
    assert "check the line" in refused(NodeError, "enrol", "CODE")


@pytest.mark.parametrize("amount", ["0.001", "-5", "x", "1e3", "५००", "1000000000", ""])
def test_an_amount_is_rupees_and_paise(folder: Path, amount: str) -> None:
    assert "RUPEES" in refused(AdminError, "topup", "--", amount)


def test_a_wrong_setting_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUKKAD_PORT", "x")
    assert "NUKKAD_PORT" in refused(SettingsError, "status")


def test_commands_on_a_running_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with served(Street(tmp_path)) as shop:
        monkeypatch.setenv("NUKKAD_STATE", str(shop.settings.state))
        check_running(shop)
    assert "no box is running" in refused(AdminError, "status")


def check_running(shop: Served) -> None:
    assert answered("sync")["billed"] == 0
    status = answered("status")
    assert status["enrolment"] == {"customer": "shop", "node_url": "http://127.0.0.1:1", "epoch": 1}
    assert "₹500.00" in said("status")
    assert answered("usage")["requests"] == 0
    assert "all" in said("usage", "--days", "7")
    topup = answered("topup", "499.50")
    assert topup["amount"] == "499.50"
    shown = said("topup", "500")
    assert "█" in shown
    assert "upi://pay?tr=" in shown
    assert "already enrolled" in refused(AdminError, "enrol", "GOOD-CODE")
    assert "no package serves under this name" in refused(AdminError, "models", "rollback", "x")
    assert "no package serves under this name" in refused(AdminError, "models", "deactivate", "x")


def test_a_package_comes_serves_and_goes_by_the_first_digits_of_its_digest(folder: Path, tmp_path: Path) -> None:
    (package,) = install(Settings(state=folder).store, write_embed(tmp_path / "a"))
    digits = package.digest.hex()[:8]
    assert answered("models", "deactivate", "tiny-embed") == {"name": "tiny-embed"}
    assert answered("models", "activate", "tiny-embed", digits)["digest"] == package.digest.hex()
    refused(PackageError, "models", "remove", digits)
    assert "serves no longer" in said("models", "deactivate", "tiny-embed")
    assert answered("models", "remove", digits)["digest"] == package.digest.hex()
    assert answered("models", "list") == {"models": []}


def test_a_damaged_package_is_told_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    store = Settings(state=folder).store
    first, second, third = install(store, *(write_embed(tmp_path / f"{seed}", seed=seed) for seed in range(3)))
    for package in (first, third):
        (package.folder / "card.md").chmod(0o644)
        (package.folder / "card.md").write_text("")
    listed = {package["digest"]: package for package in packages.shown(Store(store))}
    assert "card.md" in listed[first.digest.hex()]["damaged"]
    assert (listed[first.digest.hex()]["name"], listed[first.digest.hex()]["active"]) == (None, False)
    assert "card.md" in listed[third.digest.hex()]["damaged"]
    assert (listed[third.digest.hex()]["name"], listed[third.digest.hex()]["active"]) == ("tiny-embed", True)
    assert listed[second.digest.hex()]["version"] == "1"
    assert first.digest.hex()[:12] in said("models", "list")
    answered("models", "activate", "tiny-embed", second.digest.hex()[:8])
    for package in (first, third):
        assert package.digest.hex() in said("models", "remove", package.digest.hex()[:8])
    (left,) = packages.shown(Store(store))
    assert (left["digest"], left["active"]) == (second.digest.hex(), True)
    shutil.rmtree(second.folder.parent)
    (gone,) = packages.shown(Store(store))
    assert "not installed" in gone["damaged"]


def test_main_prints_one_line_for_what_is_expected(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["nukkad", "status"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: no box is running on")


def test_other_rooms_commands_are_there() -> None:
    assert {group.name for group in cli.app.registered_groups} == {"keys", "devices", "models", "node", "build"}


def test_damaged_packages_and_sync_failures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    console = Console(width=200)
    tables.models(console, {"models": [{"name": "m", "active": True, "damaged": "file x is short"}]})
    assert "file x is short" in capsys.readouterr().out


def test_an_address_is_only_known_after_a_first_run(tmp_path: Path) -> None:
    from appliance import address

    with pytest.raises(AddressError, match="no box has run here"):
        address.read(tmp_path)
    address.note(tmp_path, "0.0.0.0", 8765)
    assert address.read(tmp_path) == "http://127.0.0.1:8765"
    address.note(tmp_path, "::", 8765)
    assert address.read(tmp_path) == "http://[::1]:8765"
