from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.answer import HALF, Answer, Characters
from appliance.engine.protocol import ChosenToken, Delta, TokenLogprob
from appliance.engine.sampling import Drawn


def decode(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(tokens).decode(errors="replace")


def answer(stops: Sequence[str] = ()) -> Answer:
    return Answer(Characters(decode), stops)


def stream(text: str, stops: Sequence[str] = ()) -> tuple[list[Delta], bool]:
    """All deltas of a text fed byte by byte, and whether a stop string ended it."""
    under_way = answer(stops)
    deltas: list[Delta] = []
    for byte in text.encode():
        delta, stopped = under_way.push(Drawn(byte))
        deltas += [delta] if isinstance(delta, Delta) else []
        if stopped:
            return deltas, True
    rest = under_way.flush()
    return deltas + ([rest] if rest else []), False


hindi = st.text(alphabet="कखगहिंदीा् ।😀e\u0301", max_size=30)


@given(hindi | st.text(st.characters(exclude_characters=HALF, exclude_categories=["Cs"]), max_size=30))
def test_every_delta_is_whole_characters_and_together_they_are_the_text(text: str) -> None:
    deltas, _ = stream(text)
    assert [delta.text for delta in deltas] == list(text), "one byte per token frees one character at a time"
    assert sum(delta.tokens for delta in deltas) == len(text.encode())
    assert all(delta.tokens >= 1 for delta in deltas)


@given(st.text(alphabet="abह", max_size=40), st.lists(st.text(alphabet="abह", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_ends_the_answer_before_it_and_no_part_of_it_is_shown(text: str, stops: list[str]) -> None:
    deltas, stopped = stream(text, stops)
    shown = "".join(delta.text for delta in deltas)
    # A stop string is met where its last character appears; of those met there, the one that starts first cuts.
    met = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    assert stopped == (met is not None)
    if met is None:
        assert shown == text
    else:
        assert shown == text[: min(text[:met].find(stop) for stop in stops if stop in text[:met])]
    assert all(delta.text and delta.tokens >= 1 for delta in deltas)


def test_a_stop_string_inside_one_token_keeps_what_stands_before_it() -> None:
    pieces = {1: "Yes. END", 2: "ING"}
    under_way = Answer(Characters(lambda tokens: "".join(pieces[token] for token in tokens)), ["ENDING"])
    assert under_way.push(Drawn(1)) == (None, False), "the token's text may hold the beginning of the stop string"
    assert under_way.push(Drawn(2)) == (Delta("Yes. ", 1), True)


def test_what_only_looked_like_a_stop_string_is_shown_in_the_end() -> None:
    deltas, stopped = stream("so: EN", ["END"])
    assert "".join(delta.text for delta in deltas) == "so: EN"
    assert not stopped


def test_a_character_cut_off_by_the_limit_is_not_shown() -> None:
    under_way = answer()
    assert [under_way.push(Drawn(byte))[0] for byte in "क".encode()[:2]] == [None, None]
    assert under_way.flush() is None


def test_bytes_that_are_no_character_do_not_hold_up_what_follows() -> None:
    under_way = answer()
    assert under_way.push(Drawn(0xFF)) == (None, False)
    assert under_way.push(Drawn(ord("a"))) == (Delta(HALF + "a", 2), False)


@pytest.mark.parametrize(("context", "shown"), [([], "b"), ([1], " b")])
def test_a_continuation_keeps_the_space_that_some_tokenizers_drop_at_the_start(context: list[int], shown: str) -> None:
    characters = Characters(lambda tokens: "".join({1: " a", 2: " b"}[token] for token in tokens)[1:], context)
    assert characters.push(2) == shown


def test_every_token_behind_a_text_comes_with_its_log_probability() -> None:
    def drawn(byte: int) -> Drawn:
        return Drawn(byte, ChosenToken(TokenLogprob(bytes([byte]), -1.0), ()))

    under_way = answer(["END"])
    deltas = [under_way.push(drawn(byte))[0] for byte in "कEN".encode()]
    assert deltas[:2] == [None, None]
    assert deltas[2] == Delta("क", 3, tuple(chosen for byte in "क".encode() if (chosen := drawn(byte).logprobs)))
    assert deltas[3:] == [None, None], "held back, with what belongs to it"
    rest = under_way.flush()
    assert rest
    assert [chosen.chosen.data for chosen in rest.logprobs] == [b"E", b"N"]
