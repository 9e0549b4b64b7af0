"""Guessing how a text goes on from what stands in it already: answers often quote their prompt."""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # Tokens that must recur before a continuation is guessed; the longer match is believed first.
GUESSES_MAX = 8  # More at once are hardly ever all right.
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

    def guess(self, least: float, most: int) -> list[int]:
        """Up to `most` tokens that may come next, each only if it is right with a likelihood of at least `least`."""
        count, likely = 0, self._share
        while count < min(most, GUESSES_MAX) and likely >= least:
            count, likely = count + 1, likely * self._share
        if not count:
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
