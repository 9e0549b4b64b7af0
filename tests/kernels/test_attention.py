from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kernels.packing import tile_bytes
from tests.kernels.node import Operators, read_rows

Floats = NDArray[np.float32]
POSITIONS = 128


@dataclass
class Heads:
    """An attention of its own with a cache of `slots` sequences."""

    operators: Operators
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    slots: int = 3
    window: int = 0
    norms: tuple[Floats, Floats] | None = None
    threads: int = 2
    keys: NDArray[np.uint8] = field(init=False)
    values: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.slots, self.kv_heads, POSITIONS // 16, tile_bytes(self.head))
        # What lay there before must not matter, so there is rubbish (of scales that are numbers).
        self.keys, self.values = np.full(shape, 0x33, np.uint8), np.full(shape, 0x33, np.uint8)

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head

    def run(self, numbers: Floats, *sequences: tuple[int, int, int], **changes: Any) -> NDArray[np.uint8]:
        """Rows of new tokens; `sequences` are (slot, start, tokens)."""
        cosines, sines = tables(self.head)
        fields = np.array([[*each, sum(s[2] for s in sequences[:at])] for at, each in enumerate(sequences)], np.int32)
        inputs = [numbers, fields, cosines, sines, self.keys, self.values, *(self.norms or ())]
        attributes = {"heads": self.heads, "kv_heads": self.kv_heads, "window": self.window, "epsilon": 1e-6} | changes
        outputs: list[Any] = [np.uint8, self.keys, self.values]
        rows: NDArray[np.uint8] = self.operators.run("CachedAttention", inputs, outputs, self.threads, **attributes)[0]
        return rows


def tables(head: int) -> tuple[Floats, Floats]:
    angles = np.outer(np.arange(POSITIONS), 100.0 ** (-np.arange(head // 2) / (head // 2)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def expected(heads: Heads, numbers: Floats) -> Floats:
    """The attention of one whole sequence in full precision."""
    count, head = len(numbers), heads.head
    parts = numbers.reshape(count, -1, head).transpose(1, 0, 2).astype(np.float64)
    query, key, value = np.split(parts, [heads.heads, heads.heads + heads.kv_heads])
    if heads.norms:
        query, key = (
            part / np.sqrt((part**2).mean(axis=2, keepdims=True) + 1e-6) * norm
            for part, norm in zip((query, key), heads.norms, strict=True)
        )
    cosines, sines = (table[:count] for table in tables(head))

    def turn(x: NDArray[np.float64]) -> NDArray[np.float64]:
        first, second = np.split(x, 2, axis=2)
        return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=2)

    shared = heads.heads // heads.kv_heads
    key, value = (np.repeat(part, shared, axis=0) for part in (turn(key), value))
    scores = turn(query) @ key.transpose(0, 2, 1) / np.sqrt(head)
    behind = np.arange(count)[:, None] - np.arange(count)
    seen = (behind >= 0) & (behind < (heads.window or count))
    weights = np.where(seen, np.exp(scores - scores.max(axis=2, keepdims=True)), 0)
    mixed = weights / weights.sum(axis=2, keepdims=True) @ value
    whole: Floats = mixed.transpose(1, 0, 2).reshape(count, -1).astype(np.float32)
    return whole


def some_numbers(heads: Heads, count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, heads.width), dtype=np.float32)


NORMS = (np.linspace(0.5, 2, 64, dtype=np.float32), np.linspace(2, 0.5, 64, dtype=np.float32))


@pytest.mark.parametrize(
    "shape",
    [{}, {"window": 20}, {"norms": NORMS}, {"heads": 6, "kv_heads": 1, "head": 32}, {"heads": 2, "head": 256}],
    ids=["plain", "window", "norms", "one kv head", "wide"],
)
def test_it_is_attention(operators: Operators, shape: dict[str, Any]) -> None:
    heads = Heads(operators, **shape)
    numbers = some_numbers(heads, 70)
    found = read_rows(heads.run(numbers, (1, 0, 70)))
    wanted = expected(heads, numbers)
    error = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert error.max() < 0.03  # Keys, values and queries are kept in 8 bits.


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("cuts", [(70,), (1,) * 70, (33, 1, 36), (16, 54), (5, 60, 5)])
def test_a_token_s_rows_are_the_same_to_the_bit_however_the_sequence_came(
    operators: Operators, window: int, cuts: tuple[int, ...]
) -> None:
    whole, cut = Heads(operators, window=window), Heads(operators, window=window)
    numbers = some_numbers(whole, 70)
    wanted = whole.run(numbers, (0, 0, 70))
    parts, start = [], 0
    for count in cuts:
        parts.append(cut.run(numbers[start : start + count], (2, start, count)))
        start += count
    assert np.array_equal(np.concatenate(parts), wanted)
    assert np.array_equal(cut.keys[2], whole.keys[0])
    assert np.array_equal(cut.values[2], whole.values[0])


def test_sequences_side_by_side_do_not_know_of_each_other(operators: Operators) -> None:
    together = Heads(operators)
    first, second, third = (some_numbers(together, count, seed=count) for count in (40, 9, 1))
    alone = [Heads(operators).run(numbers, (0, 0, len(numbers))) for numbers in (first, second, third)]
    together.run(first[:25], (2, 0, 25))
    mixed = together.run(np.concatenate([second, first[25:], third]), (0, 0, 9), (2, 25, 15), (1, 0, 1))
    assert np.array_equal(mixed, np.concatenate([alone[1], alone[0][25:], alone[2]]))


def test_the_number_of_threads_changes_nothing(best: Operators) -> None:
    one, two = Heads(best, threads=1), Heads(best, threads=2)
    numbers = some_numbers(one, 100)
    assert np.array_equal(one.run(numbers, (0, 0, 100)), two.run(numbers, (0, 0, 100)))


def test_a_sequence_with_nothing_new_stays_as_it_is(best: Operators) -> None:
    heads = Heads(best)
    numbers = some_numbers(heads, 5)
    heads.run(numbers, (0, 0, 5))
    before = heads.keys.copy()
    heads.run(numbers[:1], (0, 5, 0), (1, 0, 1))
    assert np.array_equal(heads.keys[0], before[0])


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        ([(3, 0, 4)], "slot"),
        ([(-1, 0, 4)], "slot"),
        ([(0, 125, 4)], "longer than the cache"),
        ([(0, -1, 4)], "longer than the cache"),
        ([(0, 2**31 - 2, 4)], "longer than the cache"),
        ([(0, 0, 3)], "cover every token"),
        ([(0, 0, 5)], "cover every token"),
        ([(0, 0, 5), (1, 0, -1)], "follow one another"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(
    best: Operators, sequences: list[tuple[int, int, int]], says: str
) -> None:
    heads = Heads(best)
    with pytest.raises(RuntimeError, match=says):
        heads.run(some_numbers(heads, 4), *sequences)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 5}, "multiple of kv_heads"),
        ({"kv_heads": 0}, "multiple"),
        ({"heads": 8}, "numbers do not fit"),
        ({"window": -1}, "heads"),
    ],
)
def test_heads_that_do_not_fit_are_refused(best: Operators, changes: dict[str, int], says: str) -> None:
    heads = Heads(best)
    with pytest.raises(RuntimeError, match=says):
        heads.run(some_numbers(heads, 4), (0, 0, 4), **changes)


def test_a_cache_of_another_shape_or_place_is_refused(best: Operators) -> None:
    heads = Heads(best)
    heads.keys, kept = heads.keys[:, :, :, :-1].copy(), heads.keys
    with pytest.raises(RuntimeError, match="cache does not fit"):
        heads.run(some_numbers(heads, 1), (0, 0, 1))
    heads.keys = kept[:2].copy()
    with pytest.raises(RuntimeError, match="one shape"):
        heads.run(some_numbers(heads, 1), (0, 0, 1))
