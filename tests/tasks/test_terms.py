"""BM25 against a plain reading of its formula, and what it must do at the edges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.tasks.terms import LENGTH, SATURATION, TermIndex

texts = st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=6)


def plain(text: list[str], others: list[list[str]], query: list[str]) -> float:
    mean = sum(map(len, others)) / len(others)
    total = 0.0
    for term in set(query):
        count, having = text.count(term), sum(term in other for other in others)
        if count:
            rarity = math.log(1 + (len(others) - having + 0.5) / (having + 0.5))
            total += rarity * count * (SATURATION + 1) / (count + SATURATION * (1 - LENGTH + LENGTH * len(text) / mean))
    return total


@given(texts, st.lists(st.sampled_from("abcdefg"), max_size=5))
def test_scores_are_the_formula(given_texts: list[list[str]], query: list[str]) -> None:
    if not any(given_texts):
        return
    scores = TermIndex(given_texts).scores(query)
    assert list(scores) == pytest.approx([plain(text, given_texts, query) for text in given_texts], rel=1e-5)


def test_a_rare_term_counts_more_than_a_common_one() -> None:
    scores = TermIndex([["shop", "open"], ["shop", "emi"], ["shop", "open"]]).scores(["shop", "emi"])
    assert scores.argmax() == 1
    assert scores[0] < scores[1] / 3


def test_nothing_in_nothing_out() -> None:
    assert TermIndex([]).scores(["a"]).shape == (0,)
    assert list(TermIndex([[], ["a"]]).scores([])) == [0, 0]
