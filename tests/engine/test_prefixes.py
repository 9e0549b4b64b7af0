import pytest

from appliance.engine.prefixes import Prefixes
from tests.engine.test_scheduler import Rows

HELLO = list(range(100, 150))


def made(slots: int = 3, budget: int = 10_000, step: int = 1, apart: bool = True) -> tuple[Prefixes, Rows]:
    rows = Rows(slots)
    return Prefixes(rows, budget, step, apart), rows


def finish(prefixes: Prefixes, prompt: list[int], owner: str = "a") -> int:
    place = prefixes.admit(prompt, 10, owner)
    assert place is not None
    prefixes.progress(place[0], len(prompt))
    prefixes.release(place[0], prompt)
    return place[0]


def test_a_prompt_goes_on_from_the_rows_of_one_that_it_extends() -> None:
    prefixes, rows = made()
    slot = finish(prefixes, HELLO)
    assert prefixes.admit([*HELLO, 1, 2], 5, "a") == (slot, 50)
    assert rows.copied == []


def test_the_last_token_is_always_computed() -> None:
    prefixes, _ = made()
    slot = finish(prefixes, HELLO)
    assert prefixes.admit(HELLO, 5, "a") != (slot, 50)
    prefixes, _ = made(slots=1)
    finish(prefixes, HELLO)
    assert prefixes.admit(HELLO, 5, "a") == (0, 49)


def test_what_would_be_lost_is_copied_instead() -> None:
    prefixes, rows = made()
    first = finish(prefixes, HELLO)
    place = prefixes.admit([*HELLO[:40], 7, 8], 5, "a")
    assert place is not None
    assert place[0] != first
    assert rows.copied == [(first, place[0], 40)]
    prefixes.release(place[0], [*HELLO[:40], 7, 8])
    assert prefixes.admit([*HELLO, 9], 5, "a") == (first, 50), "the longer one is still there"


def test_rows_of_a_sequence_under_way_are_copied_as_far_as_they_are_there() -> None:
    prefixes, rows = made()
    busy = prefixes.admit(HELLO, 10, "a")
    assert busy is not None
    prefixes.progress(busy[0], 30)
    place = prefixes.admit(HELLO, 10, "a")
    assert place is not None
    assert place[1] == 30
    assert rows.copied == [(busy[0], place[0], 30)]


def test_a_prompt_waits_for_a_beginning_that_is_being_computed() -> None:
    prefixes, _ = made()
    busy = prefixes.admit(HELLO, 10, "a")
    assert busy is not None
    assert prefixes.pending([*HELLO, 1], "a")
    assert not prefixes.pending([*HELLO, 1], "b")
    assert not prefixes.pending([*HELLO[:20], 1], "a"), "too little to wait for"
    prefixes.progress(busy[0], 50)
    assert not prefixes.pending([*HELLO, 1], "a")


@pytest.mark.parametrize(("apart", "shared"), [(True, 0), (False, 50)])
def test_owners_share_only_if_they_may(apart: bool, shared: int) -> None:
    prefixes, _ = made(apart=apart)
    finish(prefixes, HELLO, "a")
    place = prefixes.admit([*HELLO, 1], 5, "b")
    assert place is not None
    assert place[1] == shared


def test_reuse_ends_at_a_step() -> None:
    prefixes, _ = made(step=16)
    finish(prefixes, HELLO)
    place = prefixes.admit([*HELLO, 1], 5, "a")
    assert place is not None
    assert place[1] == 48


def test_the_longest_unused_goes_first() -> None:
    prefixes, rows = made()
    slots = [finish(prefixes, [number] * 50) for number in range(3)]
    assert sorted(slots) == [0, 1, 2]
    place = prefixes.admit([9] * 50, 5, "a")
    assert place == (slots[0], 0)
    assert rows.forgotten == [(slots[0], 0)]
    prefixes.admit([1] * 60, 5, "a")
    assert prefixes.admit([2] * 60, 5, "a") == (slots[2], 50)


def test_a_call_waits_until_its_memory_is_free_and_idle_rows_make_room() -> None:
    prefixes, rows = made(budget=200)
    finish(prefixes, [1] * 90)
    finish(prefixes, [2] * 90)
    place = prefixes.admit([3] * 50, 50, "a")
    assert place is not None
    assert prefixes.bytes_held <= 200
    assert prefixes.admit([4] * 50, 51, "a") is None
    assert prefixes.admit([4] * 50, 50, "a") is not None
    assert prefixes.bytes_held <= 200
    assert len(rows.forgotten) >= 1


def test_no_slot_no_admission() -> None:
    prefixes, _ = made(slots=1)
    assert prefixes.admit([1], 1, "a") is not None
    assert prefixes.admit([1], 1, "a") is None


def test_rows_that_are_spoilt_are_given_up() -> None:
    prefixes, rows = made()
    place = prefixes.admit(HELLO, 10, "a")
    assert place is not None
    prefixes.release(place[0], [])
    assert rows.forgotten == [(place[0], 0)]
    assert prefixes.admit(HELLO, 10, "a") == (1, 0) or prefixes.busy == 1


def test_a_slot_that_is_not_taken_cannot_be_released() -> None:
    prefixes, _ = made()
    with pytest.raises(AssertionError):
        prefixes.release(0, [])
