"""Scripts are told by their code points, and what belongs to none counts for none."""

import pytest

from appliance.text.scripts import main_script, script_of, script_shares


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("दुकान कब खुलती है?", "Deva"),
        ("দোকান কখন খোলে", "Beng"),
        ("கடை எப்போது", "Taml"),
        ("షాపు ఎప్పుడు", "Telu"),
        ("ਦੁਕਾਨ", "Guru"),
        ("દુકાન", "Gujr"),
        ("ଦୋକାନ", "Orya"),
        ("ಅಂಗಡಿ", "Knda"),
        ("കട", "Mlym"),
        ("دکان", "Arab"),
        ("shop kab khulti hai", "Latn"),
        ("₹ 50 । | 🙂", None),
        ("", None),
    ],
)
def test_main_script(text: str, script: str | None) -> None:
    assert main_script(text) == script


def test_shares_of_mixed_text_sum_to_one_largest_first() -> None:
    shares = script_shares("मेरा phone खराब")
    assert list(shares) == ["Deva", "Latn"]
    assert shares == {"Deva": 8 / 13, "Latn": 5 / 13}


def test_dandas_are_shared_and_belong_to_no_script() -> None:
    assert script_of("।") is None
    assert script_of("॥") is None
