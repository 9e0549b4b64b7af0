"""Maps cover the original, compose, and refuse places that do not exist."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.text.offsets import OffsetMap, Piece, identity, rewrite


@st.composite
def rewritings(draw: st.DrawFn, text: str | None = None) -> tuple[str, list[Piece]]:
    if text is None:
        text = draw(st.text(max_size=20))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8, unique=True)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return text, [Piece(start, end, draw(st.text(max_size=3))) for start, end in pairs]


def covers(offsets: OffsetMap, new_text: str) -> None:
    assert len(offsets.starts) == len(offsets.ends) == len(new_text)
    assert list(offsets.starts) == sorted(offsets.starts)
    assert list(offsets.ends) == sorted(offsets.ends)
    if not new_text:
        return
    assert offsets.span(0, len(new_text)) == (0, offsets.original_points)
    for before, after in zip(offsets.ends, offsets.starts[1:], strict=False):
        assert after <= before, "a place of the original belongs to nobody"


@given(rewritings())
def test_every_place_of_the_original_belongs_to_the_new_text(case: tuple[str, list[Piece]]) -> None:
    text, pieces = case
    new_text, offsets = rewrite(text, pieces)
    covers(offsets, new_text)


@given(st.data())
def test_two_rewritings_compose(data: st.DataObject) -> None:
    text, first = data.draw(rewritings())
    middle, earlier = rewrite(text, first)
    _, second = data.draw(rewritings(middle))
    final, later = rewrite(middle, second)
    both = earlier.then(later)
    covers(both, final)
    for start in range(len(final)):
        for end in range(start + 1, len(final) + 1):
            assert both.span(start, end) == earlier.span(*later.span(start, end))


def test_what_stays_maps_point_by_point_and_what_changes_maps_whole() -> None:
    text, offsets = rewrite("abcdef", [Piece(1, 3, "XYZ"), Piece(4, 5, "")])
    assert text == "aXYZdf"
    assert [offsets.span(i, i + 1) for i in range(6)] == [(0, 1), (1, 3), (1, 3), (1, 3), (3, 5), (5, 6)]
    assert offsets.span(0, 6) == (0, 6)
    assert offsets.span(4, 4) == (3, 3)
    assert offsets.span(6, 6) == (6, 6)


def test_text_that_stays_maps_to_itself() -> None:
    assert rewrite("नमस्ते", ())[1] == identity(6)


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (2, 1), (0, 4)])
def test_a_span_beyond_the_text_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="outside a text of 3"):
        identity(3).span(start, end)


def test_maps_over_different_texts_do_not_compose() -> None:
    with pytest.raises(ValueError, match="over 2 code points, not 3"):
        identity(3).then(identity(2))
