"""Money in: an empty wallet is refused with a link, plugged or not; a UTR credits once; the box hears of it."""

from collections.abc import Iterator

import httpx
import pytest
import segno
import zxingcpp
from PIL import Image

from tests.support.house import House, wait_until
from tests.support.qr import draw_svg

pytestmark = pytest.mark.e2e

ALLOWANCE_PAISE = 5
TEXT = "दुकान " * 150  # 900 code points: ₹0.0036 as an embedding


@pytest.fixture
def settings() -> dict[str, str]:
    return {"NUKKAD_NODE_ALLOWANCE_PAISE": str(ALLOWANCE_PAISE), "NUKKAD_SYNC_S": "1"}


def spend(client: httpx.Client) -> tuple[int, httpx.Response]:
    """Embeds until something else than an answer comes: how many were served, and what came then."""
    for served in range(100):
        answer = client.post("/v1/embeddings", json={"model": "multilingual-e5-small", "input": TEXT})
        if answer.status_code != 200:
            return served, answer
    raise AssertionError("100 calls were served on an allowance that pays for 13")


def is_refused(client: httpx.Client, topup: str) -> bool:
    """At once, and with this link."""
    served, refused = spend(client)
    return served == 0 and refused.status_code == 402 and refused.json()["error"]["topup"] == topup


def decode(svg: str) -> str:
    (code,) = zxingcpp.read_barcodes(draw_svg(svg))
    return str(code.text)


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    key = house.ask("keys", "create", "an app")["secret"]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=house.box_url, headers=headers, timeout=60, trust_env=False) as made:
        yield made


def test_from_empty_to_paid_and_back(house: House, client: httpx.Client) -> None:
    # Plugged: the allowance pays for some calls, then the refusal carries a link to pay.
    served, refused = spend(client)
    assert served == ALLOWANCE_PAISE * 10_000 // 3600
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert error["code"] == "credit_exhausted"
    assert "allowed beyond it" in error["message"]
    standing = error["topup"]
    assert standing.startswith("upi://pay?")
    assert "tr=" in standing

    # Unplugged: the same link, also after a restart.
    house.ask("sync")
    house.stop(house.node)
    assert is_refused(client, standing)
    house.stop(house.box)
    house.start_box()
    assert is_refused(client, standing)
    assert house.nukkad("topup", "500", check=False).returncode == 1
    house.start_node()

    # A top-up for ₹500: the QR code holds what the node issued.
    topup = house.ask("topup", "500")
    token = (house.root / "box" / "admin.token").read_text().strip()
    admin = {"Authorization": f"Bearer {token}"}
    svg = client.get(f"/v1/admin/topups/{topup['reference']}/qr.svg", headers=admin)
    assert decode(svg.raise_for_status().text) == topup["link"]
    link = httpx.URL(topup["link"])
    assert link.params["am"] == "500.00"
    assert link.params["tr"] == topup["reference"]
    assert link.params["pa"] == "nukkad@upi"
    shown = house.nukkad("topup", "500").stdout
    assert topup["reference"] not in shown  # Every request is a new one.
    issued = {each["reference"]: each for each in house.ask("node", "topups", "shop")["topups"]}
    assert issued[topup["reference"]]["link"] == topup["link"]

    # The operator confirms by UTR: once, whatever is confirmed again.
    utr = "412345678901"
    assert house.ask("node", "confirm", topup["reference"], utr)["credited"] is True
    assert house.ask("node", "confirm", topup["reference"], utr)["credited"] is False
    other = house.ask("topup", "500")["reference"]
    assert house.nukkad("node", "confirm", other, utr, check=False).returncode == 1
    statement = house.ask("node", "statement", "shop")
    assert statement["topups_paise"] == 50_000
    assert 0 < statement["usage"] <= ALLOWANCE_PAISE * 10_000
    assert len(statement["topups"]) == 1

    # The box hears of it at its next sync and serves again.
    wait_until(
        lambda: client.post("/v1/embeddings", json={"model": "multilingual-e5-small", "input": "x"}).is_success,
        "the credit reaches the box",
    )
    assert house.ask("node", "trial-balance")["balanced"]


def test_the_reader_of_codes_can_fail() -> None:
    """So that the checks above mean something."""
    blank = Image.new("L", (200, 200), 255)
    assert zxingcpp.read_barcodes(blank) == []
    assert segno.make("upi://pay?pa=a@b").designator
