"""The demo's own count: a second way to the same money, and the same verdict as the node's when they differ."""

from hypothesis import given

from appliance.demo import Count, _difference, _is_equal, points
from appliance.text.points import count_points
from sync.price import cost, default_book
from sync.record import Meter, Unit
from tests.support.usage import quantities

RATES = {
    meter.name.lower(): {unit.name.lower(): rate for unit, rate in units.items()}
    for meter, units in default_book().rates.items()
}


@given(quantities)
def test_a_caller_s_arithmetic_gives_the_box_s_cost(units: dict[Unit, int]) -> None:
    for meter in Meter:
        count = Count(RATES)
        count.add(meter.name.lower(), **{unit.name.lower(): quantity for unit, quantity in units.items()})
        assert count.cost == cost(default_book(), meter, units)


def test_code_points_are_counted_after_nfc() -> None:
    for text in ("बड़ा", "ब\u0921\u093cा", "é", "e\u0301", "അവൻ", ""):
        assert points(text) == count_points(text)


def test_a_difference_of_one_code_point_is_not_equal() -> None:
    def statement(points_in: int) -> dict[str, object]:
        line = {"meter": "chat", "unit": "points_in", "quantity": points_in}
        return {"usage": 10 * points_in, "lines": [line, {"meter": "chat", "unit": "tokens_in", "quantity": 9}]}

    count = Count(RATES)
    count.add("chat", points_in=100)
    assert _is_equal(count, _difference(statement(7), statement(107)))
    assert not _is_equal(count, _difference(statement(7), statement(108)))
