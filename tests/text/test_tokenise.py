"""Words for a search index; the golden files of normalisation hold their words too."""

import subprocess
import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from appliance.text.tokenise import fold, tokenise


def test_places_lead_back_to_the_text_as_given() -> None:
    text = "दाम ₹१,०००: ABC@upi"
    tokens = tokenise(text)
    assert [text[t.start : t.end] for t in tokens] == ["दाम", "१,०००", "ABC@upi"]
    assert [t.word for t in tokens] == ["दाम", "1000", "abc@upi"]


@given(st.text(st.one_of(st.characters(min_codepoint=0x900, max_codepoint=0xD7F), st.characters()), max_size=30))
def test_words_are_never_empty_and_lie_in_order(text: str) -> None:
    tokens = tokenise(text)
    for token in tokens:
        assert token.word
        assert 0 <= token.start < token.end <= len(text)
    for before, after in pairwise(tokens):
        assert before.start <= after.start
        assert before.end <= after.end


def test_folding_joins_spellings_but_not_words() -> None:
    assert fold("ज\u093cरूरत") == fold("जरूरत")
    assert fold("Wi\u200dFi") == "wifi"
    assert fold("कल") != fold("काल")


def test_normalising_and_cutting_need_neither_pandas_nor_numpy() -> None:
    """The library's script tables import pandas, which no box installs: this room must never touch them."""
    code = "import sys, appliance.text.tokenise; print([m for m in ('pandas', 'numpy', 'sphinx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
