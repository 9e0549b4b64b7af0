from appliance.engine.lookup import FORGETTING, GUESSES_MAX, HOPE, Lookup


def test_what_stood_after_the_same_tokens_is_guessed() -> None:
    lookup = Lookup([1, 2, 3, 4, 5, 6, 9, 3, 4])
    assert lookup.guess(0, 3) == [5, 6, 9]


def test_a_longer_match_is_believed_before_a_later_short_one() -> None:
    lookup = Lookup([1, 2, 3, 4, 50, 0, 3, 4, 60, 0, 1, 2, 3, 4])
    assert lookup.guess(0, 1) == [50]
    assert Lookup([3, 4, 50, 0, 3, 4, 60, 0, 3, 4]).guess(0, 1) == [60], "of equal ones the latest"


def test_without_a_match_nothing_is_guessed() -> None:
    assert Lookup([1, 2, 3, 4, 5]).guess(0, 5) == []
    assert Lookup([]).guess(0, 5) == []
    assert Lookup([7]).guess(0, 5) == []


def test_a_repetition_is_guessed_to_go_on() -> None:
    lookup = Lookup([1, 2] * 5)
    assert lookup.guess(0, 2) == [1, 2]


def test_there_are_never_more_than_asked_for_or_than_the_bound() -> None:
    lookup = Lookup([*range(50), 0, 1])
    assert len(lookup.guess(0, 3)) == 3
    assert len(lookup.guess(0, 100)) == GUESSES_MAX
    assert lookup.guess(0, 0) == []
    assert lookup.guess(0, -1) == []


def test_it_guesses_as_far_as_it_is_likely_to_be_right() -> None:
    lookup = Lookup([*range(50), 0, 1])
    assert len(lookup.guess(HOPE, 9)) == 1
    assert len(lookup.guess(HOPE**2, 9)) == 2
    assert lookup.guess(HOPE + 0.01, 9) == []


def test_it_stops_while_it_is_wrong_and_tries_again_later() -> None:
    lookup = Lookup([*range(50), 0, 1])
    for _ in range(30):
        lookup.learn(0, wrong=True)
    assert lookup.guess(0.2, 9) == []
    for token in range(2, 2 + round(1 / FORGETTING)):
        lookup.push(token % 50)
    assert lookup.guess(0.2, 9)


def test_it_goes_further_while_it_is_right() -> None:
    lookup = Lookup([*range(50), 0, 1])
    few = len(lookup.guess(0.3, 9))
    for _ in range(20):
        lookup.learn(4, wrong=False)
    assert len(lookup.guess(0.3, 9)) > few
