import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.price import MICRO_PER_PAISA, rupees
from sync.rupees import parse_rupees


@pytest.mark.parametrize(
    ("text", "paise"), [("500", 50_000), ("500.5", 50_050), ("0.05", 5), ("-3", -300), ("-0.10", -10), ("007", 700)]
)
def test_what_people_type(text: str, paise: int) -> None:
    assert parse_rupees(text) == paise


@pytest.mark.parametrize(
    "text", ["", "-", "5.001", "5.", ".5", "1,000", "+5", "५", " 5", "5\n", "1e3", "--5", "1" * 10]
)
def test_what_is_no_amount_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="must be rupees like 500"):
        parse_rupees(text)


@given(st.integers(-(10**11) + 1, 10**11 - 1))
def test_it_reads_what_is_shown(paise: int) -> None:
    assert parse_rupees(rupees(paise * MICRO_PER_PAISA)) == paise
