from tests.bench import loads
from tests.bench.measure import Measured, rows_of


def test_of_a_peers_own_lookups_the_fastest_counts_with_the_peers_quality() -> None:
    measured = Measured(perplexity={"k4": 13.4, "llama.cpp Q8_0": 13.4, "llama.cpp F32": 13.3})
    for who, value in (("k4", 90), ("llama.cpp Q8_0 --spec-type a", 60), ("llama.cpp Q8_0 --spec-type b", 80)):
        measured.add(loads.GROUNDED_LOOKUP, who, value)
    _, row = rows_of(measured, ["k4"], ["llama.cpp Q8_0"])
    assert row.peer_name == "llama.cpp Q8_0 --spec-type b"
    assert row.ratio == 90 / 80
    assert row.at_least == 1.0


def test_full_precision_is_what_quality_is_measured_against() -> None:
    measured = Measured(perplexity={"k4": 10.2, "llama.cpp F32": 10.0})
    (row,) = rows_of(measured, ["k4"], [])
    assert row.load == loads.QUALITY
    assert row.missed, "two in a hundred more is more than one in a hundred"


def test_a_lane_is_measured_against_itself_where_the_bound_says_so() -> None:
    measured = Measured(perplexity={"k4": 10.0})
    measured.add(loads.FIRST_TOKEN, "k4", 20)
    measured.add(loads.FIRST_TOKEN, "k4, cold", 1000)
    (row,) = rows_of(measured, ["k4"], [])
    assert (row.ratio, row.missed) == (50, False)
