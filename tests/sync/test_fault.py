"""A fault is told by kind and place, and its message, which may quote a customer, is not."""

from sync.fault import place


def test_kind_and_place_are_told_and_the_message_is_not() -> None:
    try:
        {}["a customer's words"]  # type: ignore[index]  # the fault itself
    except KeyError as error:
        told = place(error)
    assert told.startswith("KeyError at test_fault.py:")
    assert "customer" not in told


def test_a_fault_that_was_never_raised_has_no_place() -> None:
    assert place(ValueError("x")) == "ValueError"
