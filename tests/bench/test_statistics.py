import pytest

from tests.bench.statistics import Figure, Load, Row, compare, figure, is_fair

SPEED = Load("decode", "tokens/s", 1.6)
WAIT = Load("first token", "ms", 10, less_is_better=True)


def test_a_figure_is_the_median_with_its_spread() -> None:
    assert figure([3, 1, 10]) == Figure(3, 1, 10)
    assert figure([1, 4]) == Figure(2.5, 1, 4)


def test_a_ratio_says_how_many_times_better_ours_is_whichever_way_the_unit_counts() -> None:
    assert Row(SPEED, "k4", figure([200]), "peer", figure([100])).ratio == 2
    assert Row(WAIT, "k4", figure([20]), "peer", figure([100])).ratio == 5


@pytest.mark.parametrize(("ours", "missed"), [(159, True), (160, False), (161, False)])
def test_a_bound_is_missed_below_it(ours: float, missed: bool) -> None:
    assert Row(SPEED, "k4", figure([ours]), "peer", figure([100])).missed is missed


def test_what_was_not_run_is_neither_met_nor_missed() -> None:
    row = Row(SPEED, "k4", figure([1]), "peer", None, why="no wheel")
    assert row.ratio is None
    assert not row.missed


@pytest.mark.parametrize(("peer", "fair"), [(13.0, True), (13.4, True), (13.41, True), (13.5, False)])
def test_a_peer_counts_if_its_perplexity_is_as_good(peer: float, fair: bool) -> None:
    assert is_fair(13.4, peer) is fair


def test_a_faster_peer_of_less_quality_is_shown_and_misses_nothing() -> None:
    peers = {"exact": figure([50]), "coarse": figure([500])}
    exact, coarse = compare(SPEED, "k4", figure([100]), peers, {"k4": 13.4, "exact": 13.4, "coarse": 15.0})
    assert (exact.ratio, exact.at_least, exact.missed) == (2, 1.6, False)
    assert (coarse.ratio, coarse.at_least, coarse.missed) == (0.2, None, False)
    assert "15.000" in coarse.why
