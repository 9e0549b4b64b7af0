"""The policy of normalisation: golden files by language, and what must hold for any text at all."""

import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.text.normalise import _clusters, _continues, normalise
from appliance.text.offsets import rewrite
from appliance.text.tokenise import tokenise

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
CASES = [
    pytest.param(path.stem, case, id=f"{path.stem}: {case['why']}")
    for path in sorted(GOLDEN.glob("*.json"))
    for case in json.loads(path.read_text("utf-8"))
]

# Letters, signs and everything treacherous, far more often than chance would pick them.
_TREACHEROUS = "\u200c\u200d\u00ad\ufeff\u00a0\u200b|:।\u0972\u0b35\u09f7\u0d57\u0bd7়़्্்్്ेোাি"
_INDIC = st.characters(min_codepoint=0x900, max_codepoint=0xD7F)
texts = st.text(
    st.one_of(st.sampled_from(_TREACHEROUS), _INDIC, st.sampled_from("ণনরলത്ന്ര്ക്ত্ر ی ك ي0५৫௫"), st.characters()),
    max_size=24,
)


@pytest.mark.parametrize(("language", "case"), CASES)
def test_golden(language: str, case: dict[str, str | list[str]]) -> None:
    given_text = case["given"]
    assert isinstance(given_text, str)
    assert normalise(given_text, language).text == case["text"]
    assert [token.word for token in tokenise(given_text, language)] == case["words"]


@given(texts, st.sampled_from([None, "hi", "ur"]))
def test_normalising_twice_changes_nothing_more(text: str, language: str | None) -> None:
    once = normalise(text, language).text
    assert normalise(once, language).text == once
    assert unicodedata.is_normalized("NFC", once)


@given(texts)
def test_every_place_of_the_original_is_kept(text: str) -> None:
    normalised = normalise(text)
    starts, ends = normalised.map.starts, normalised.map.ends
    assert len(starts) == len(ends) == len(normalised.text)
    if not normalised.text:
        return
    assert normalised.map.span(0, len(starts)) == (0, len(text))
    # Cut the new text wherever no piece crosses: the original falls apart into the same pieces, none lost, none twice.
    cuts = [i for i in range(1, len(starts)) if starts[i] >= ends[i - 1]]
    spans = [normalised.map.span(a, b) for a, b in zip([0, *cuts], [*cuts, len(starts)], strict=True)]
    assert "".join(text[a:b] for a, b in spans) == text


@given(st.text(st.one_of(_INDIC, st.sampled_from("०५়়ো|: ")), max_size=12))
def test_each_piece_normalises_to_what_it_maps_to(text: str) -> None:
    """Without joiners no rule looks beyond a cluster: every piece of the original gives its part of the new text."""
    normalised = normalise(text)
    starts, ends = normalised.map.starts, normalised.map.ends
    cuts = [i for i in range(1, len(starts)) if starts[i] >= ends[i - 1] and not _continues(text[starts[i]])]
    for a, b in zip([0, *cuts], [*cuts, len(starts)], strict=True):
        if a < b:
            start, end = normalised.map.span(a, b)
            assert normalise(text[start:end]).text == normalised.text[a:b]


def test_clusters_are_cut_only_where_composition_cannot_reach() -> None:
    """Every code point that composes with one before it continues a cluster, in this Python's Unicode."""
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            composed = unicodedata.normalize("NFC", chr(int(parts[0], 16)) + chr(int(parts[1], 16)))
            assert len(composed) == 2 or _continues(chr(int(parts[1], 16))), hex(code)
        if unicodedata.combining(chr(code)):
            assert _continues(chr(code)), hex(code)


@given(st.text(st.one_of(_INDIC, st.characters()), max_size=30))
def test_the_cluster_step_does_at_least_what_nfc_does(text: str) -> None:
    assert unicodedata.is_normalized("NFC", rewrite(text, _clusters(text))[0])


def test_digits_stay_when_asked() -> None:
    assert normalise("५ ௫ 5", ascii_digits=False).text == "५ ௫ 5"


def test_a_family_stays_together() -> None:
    family = "👨\u200d👩\u200d👧 ❤️\u200d🔥"
    assert normalise(family).text == family


def test_offsets_lead_back_through_every_step() -> None:
    given_text = "\ufeffदाम: ब\u095cा ₹१,०००"
    normalised = normalise(given_text)
    at = normalised.text.index("ब")
    start, end = normalised.map.span(at, at + 4)
    assert given_text[start:end] == "ब\u095cा"
    assert normalised.map.span(0, 1) == (0, 2), "the byte order mark belongs to the first letter"
