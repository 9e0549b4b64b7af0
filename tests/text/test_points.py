"""The billable size: code points after NFC."""

from unicodedata import normalize

from hypothesis import given
from hypothesis import strategies as st

from appliance.text.points import count_points


def test_composed_and_decomposed_spellings_cost_the_same() -> None:
    assert count_points("ब\u095cा") == count_points("ब\u0921\u093cा") == 4
    assert count_points("é") == count_points("e\u0301") == 1
    assert count_points("") == 0
    assert count_points("नमस्ते 🙏") == 8


@given(st.text())
def test_any_form_of_one_text_counts_the_same(text: str) -> None:
    assert {count_points(normalize(form, text)) for form in ("NFC", "NFD")} == {count_points(text)}
