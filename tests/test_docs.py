"""The docs are complete and say what the code says: every setting, command, route and price."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi.routing import APIRoute

from appliance import settings as box_settings
from appliance.cli import app as command_line
from appliance.console.words import Words
from appliance.gateway import errors
from appliance.gateway.routes import routers
from sync.node import settings as node_settings
from sync.node.routes import device, health, operator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


SETTINGS = [*box_settings.describe(), *node_settings.describe()]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_is_documented_as_it_is(setting: box_settings.Setting) -> None:
    assert f"| `{setting.name}` | `{setting.default}` | {setting.meaning} |" in text("settings.md")


def commands(group: Any, before: str) -> Iterator[str]:
    """Typer brings its own copy of click, so groups are known by what they have."""
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            if command.invoke_without_command:
                yield f"{before} {name}"
            yield from commands(command, f"{before} {name}")
        else:
            yield f"{before} {name}"


def test_every_command_is_documented_and_no_other() -> None:
    there = set(commands(typer.main.get_command(command_line), "nukkad"))
    documented = set(re.findall(r"^\| `(nukkad[a-z -]*[a-z])", text("commands.md"), re.MULTILINE))
    assert documented == there


def routes() -> set[str]:
    every = [*routers, device.router, health.router, operator.router]
    known = [route for router in every for route in router.routes if isinstance(route, APIRoute)]
    return {f"{method} {route.path}" for route in known for method in route.methods or ()}


def test_every_route_is_documented_and_no_other() -> None:
    pages = text("api.md") + text("operator.md")
    documented = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^` ]*)`", pages))
    assert documented == routes()


def refusals(base: type[errors.Refusal] = errors.Refusal) -> Iterator[type[errors.Refusal]]:
    for each in base.__subclasses__():
        yield each
        yield from refusals(each)


def test_every_error_is_documented_and_no_other() -> None:
    _, _, rest = text("api.md").partition("## Errors")
    rows = re.findall(r"^\| (\d{3}) \| ([^|]*) \|", rest.partition("\n## ")[0], re.MULTILINE)
    documented = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    told = {(each.status, each.code) for each in (*errors.TABLE.values(), errors.UNEXPECTED)}
    told |= {(each.status, each.code) for each in refusals()} | set(errors.HTTP_CODES.items())
    # A route may give a refusal a code of its own.
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "appliance" / "gateway").rglob("*.py"))
    own = {
        (each.status, code)
        for each in refusals()
        for call in re.findall(rf"raise (?:errors\.)?{each.__name__}\((.*)", sources)
        for code in re.findall(r'code="(\w+)"', call)
    }
    assert documented == told | own


def test_a_box_is_told_of_its_node_before_it_is_enrolled() -> None:
    page = text("install.md")
    assert 0 < page.find("NUKKAD_NODE_URL=https://") < page.find("nukkad enrol CODE")


def test_the_settings_file_of_a_box_opens_its_page_to_the_shop_s_network() -> None:
    lines = (ROOT / "packaging" / "systemd" / "box.env").read_text("utf-8").splitlines()
    chosen = dict(line[1:].split("=", 1) for line in lines if line.startswith("#NUKKAD_"))
    address = chosen["NUKKAD_HOSTS"]
    assert {address, "127.0.0.1"} <= set(box_settings.from_env(chosen).host_names), "the page, and the box's commands"
    for name in ("NUKKAD_HOST", "NUKKAD_HOSTS", "NUKKAD_NODE_URL"):
        assert f"{name}={chosen[name]}" in text("install.md")
    for page in ("install.md", "shop.md"):
        assert f"http://{address}:{box_settings.Settings().port}/" in text(page)


def test_the_shopkeeper_is_told_when_a_box_stops_and_how_to_pay() -> None:
    page = text("shop.md")
    (hours,) = (each.default for each in node_settings.describe() if each.name == "NUKKAD_NODE_LEASE_HOURS")
    assert f"{hours} hours" in page
    assert f"**{Words('en')('topup_open')}**" in page


def test_the_readme_names_the_torch_that_the_tests_need() -> None:
    (torch,) = re.findall(r"^torch==\S+", (ROOT / "locks" / "test.txt").read_text(), re.MULTILINE)
    assert f"`{torch}`" in (ROOT / "README.md").read_text("utf-8")


def test_the_prices_are_the_price_book_s() -> None:
    book = json.loads((ROOT / "sync" / "default_prices.json").read_text())
    page = text("prices.md")
    for meter, rates in book["rates"].items():
        for unit, rate in rates.items():
            rupees = f"{rate // 1_000_000}.{rate % 1_000_000:06d}".rstrip("0").rstrip(".").rstrip(".")
            assert f"| {meter} | {unit} | ₹{rupees} |" in page, (meter, unit, rupees)
    assert len(re.findall(r"^\| [a-z]+ \| [a-z_]+ \| ₹", page, re.MULTILINE)) == sum(map(len, book["rates"].values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists() or "://" in target, target


def test_architecture_stays_under_two_pages() -> None:
    """Two printed pages hold about 120 lines of this width."""
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 120
