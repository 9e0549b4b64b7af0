"""Guessing how a text goes on from what stands in it already: answers often quote their prompt."""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # Tokens that must recur before a continuation is guessed; the longer match is believed first.
GUESSES_MAX = 7  # With the token before them they fill the eight rows that a matrix is multiplied by at once.
# What one more row costs a step, as a share of a step of one row: measured with SmolLM2-135M on two cores, 3.7 ms for
# one row and 9.5 ms for eight.
ROW_COST = 0.2
HOPE = 0.7  # The share of guesses that are right, as long as nothing is known.
LEARNING = 0.1  # What one guess weighs in that share.
FORGETTING = 0.01  # How fast a bad share is forgotten per token, so that guessing is tried again.


class Lookup:
    """The tokens of one sequence so far, and where each run of a few of them stood last."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: list[dict[tuple[int, ...], int]] = [{} for _ in range(SHORTEST, LONGEST + 1)]
        self._share = HOPE
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """A token that is certain. Its place is remembered under the runs before it."""
        place = len(self._tokens)
        for length, after in enumerate(self._after, SHORTEST):
            if place >= length:
                after[tuple(self._tokens[place - length :])] = place
        self._tokens.append(token)
        self._share += FORGETTING * (HOPE - self._share)

    def guess(self, rows: int, most: int) -> list[int]:
        """Tokens that may come next, `most` of them at most and only as many as pay in a step of so many `rows`."""
        count = min(most, _worthwhile(self._share, rows))
        if count <= 0:
            return []
        for length in range(LONGEST, SHORTEST - 1, -1):
            place = self._after[length - SHORTEST].get(tuple(self._tokens[-length:]))
            if place is not None:
                return self._tokens[place : place + count]
        return []

    def learn(self, right: int, wrong: bool) -> None:
        """How guesses turned out: so many in a row right, and then perhaps a wrong one."""
        for outcome in (*[1.0] * right, *[0.0] * wrong):
            self._share += LEARNING * (outcome - self._share)


def _worthwhile(share: float, rows: int) -> int:
    """How many guesses give a step the most tokens for its time, if each is right with a likelihood of `share`."""

    def pace(count: int) -> float:
        tokens = rows + sum(share**place for place in range(1, count + 1))
        return tokens / (1 + ROW_COST * (rows - 1 + count))

    return max(range(GUESSES_MAX + 1), key=pace)
