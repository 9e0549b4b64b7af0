from appliance.engine.lookup import FORGETTING, GUESSES_MAX, Lookup


def sure(*tokens: int) -> Lookup:
    """One whose guesses have all been right."""
    lookup = Lookup(tokens)
    for _ in range(100):
        lookup.learn(1, wrong=False)
    return lookup


def test_what_stood_after_the_same_tokens_is_guessed() -> None:
    assert sure(1, 2, 3, 4, 5, 6, 9, 3, 4).guess(1, 3) == [5, 6, 9]


def test_a_longer_match_is_believed_before_a_later_short_one() -> None:
    assert sure(1, 2, 3, 4, 50, 0, 3, 4, 60, 0, 1, 2, 3, 4).guess(1, 1) == [50]
    assert sure(3, 4, 50, 0, 3, 4, 60, 0, 3, 4).guess(1, 1) == [60], "of equal ones the latest"


def test_without_a_match_nothing_is_guessed() -> None:
    assert sure(1, 2, 3, 4, 5).guess(1, 5) == []
    assert sure().guess(1, 5) == []
    assert sure(7).guess(1, 5) == []


def test_a_repetition_is_guessed_to_go_on() -> None:
    assert sure(*[1, 2] * 5).guess(1, 2) == [1, 2]


def test_there_are_never_more_than_asked_for_or_than_the_bound() -> None:
    lookup = sure(*range(50), 0, 1)
    assert len(lookup.guess(1, 3)) == 3
    assert len(lookup.guess(1, 100)) == GUESSES_MAX
    assert lookup.guess(1, 0) == []
    assert lookup.guess(1, -1) == []


def test_the_more_rows_a_step_has_the_less_is_guessed() -> None:
    counts = [len(Lookup([*range(50), 0, 1]).guess(rows, 9)) for rows in (1, 2, 4, 16)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] >= 2
    assert counts[-1] == 0


def test_it_stops_while_it_is_wrong_and_tries_again_later() -> None:
    lookup = Lookup([*range(50), 0, 1])
    for _ in range(30):
        lookup.learn(0, wrong=True)
    assert lookup.guess(1, 9) == []
    for token in range(2, 2 + round(1 / FORGETTING)):
        lookup.push(token % 50)
    assert lookup.guess(1, 9)


def test_it_goes_further_while_it_is_right() -> None:
    assert len(sure(*range(50), 0, 1).guess(1, 9)) > len(Lookup([*range(50), 0, 1]).guess(1, 9))
