"""The link as a payer's app reads it."""

import random
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.node.upi import format_amount, make_link, make_reference


def test_a_link_has_what_npci_asks_for() -> None:
    link = make_link("shop@bank", "Sharma & Sons दुकान", "NK123", 50_050, "Nukkad top-up")
    assert link == (
        "upi://pay?pa=shop@bank&pn=Sharma%20%26%20Sons%20%E0%A4%A6%E0%A5%81%E0%A4%95%E0%A4%BE%E0%A4%A8"
        "&tr=NK123&tn=Nukkad%20top-up&am=500.50&cu=INR"
    )


def test_without_an_amount_the_payer_types_it() -> None:
    assert "am=" not in make_link("shop@bank", "Shop", "NK123", 0, "Nukkad top-up")


@given(st.integers(1, 10**9))
def test_amounts_have_two_decimals_and_lose_nothing(paise: int) -> None:
    rupees, decimals = format_amount(paise).split(".")
    assert len(decimals) == 2
    assert int(rupees) * 100 + int(decimals) == paise


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_name_survives(name: str) -> None:
    parts = urlsplit(make_link("shop@bank", name, "NK1", 100, "top up"))
    assert "+" not in parts.query and parts.query.isascii()
    assert parse_qs(parts.query)["pn"] == [name]


def test_references_are_unlike() -> None:
    dice = random.Random(1)
    made = {make_reference(dice.randbytes) for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(reference.isalnum() and reference.isascii() and len(reference) <= 35 for reference in made)


def test_a_reference_of_another_form_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        make_link("shop@bank", "Shop", "NK-1", 100, "top up")
