import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.protocol import Sampling
from appliance.engine.sampling import Report, Sampler, _likeliest


def logits_of(probabilities: list[float]) -> NDArray[np.float32]:
    return np.log(np.array(probabilities, dtype=np.float32))


def drawn(sampling: Sampling, logits: NDArray[np.float32], count: int = 2000) -> NDArray[np.float64]:
    """How often each token was drawn."""
    sampler = Sampler(sampling, seed=7)
    return np.bincount([sampler.draw(logits).token for _ in range(count)], minlength=logits.size) / count


def test_temperature_0_takes_the_likeliest_and_of_equals_the_first() -> None:
    sampler = Sampler(Sampling(temperature=0), seed=1)
    assert [sampler.draw(np.array([1, 5, 5, 2], dtype=np.float32)).token for _ in range(3)] == [1, 1, 1]


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    wanted = [0.5, 0.1, 0.05, 0.35]
    assert np.allclose(drawn(Sampling(), logits_of(wanted)), wanted, atol=0.04)


def test_temperature_sharpens() -> None:
    assert np.allclose(
        drawn(Sampling(temperature=0.5), logits_of([0.6, 0.3, 0.1])), [36 / 46, 9 / 46, 1 / 46], atol=0.04
    )


def test_top_k_leaves_k_tokens_in_proportion() -> None:
    assert np.allclose(drawn(Sampling(top_k=2), logits_of([0.2, 0.1, 0.6, 0.1])), [0.25, 0, 0.75, 0], atol=0.04)


def test_top_p_leaves_the_fewest_tokens_that_reach_it() -> None:
    assert np.allclose(drawn(Sampling(top_p=0.7), logits_of([0.2, 0.1, 0.6, 0.1])), [0.25, 0, 0.75, 0], atol=0.04)


def test_top_p_counts_within_top_k() -> None:
    # Of [0.5, 0.3] the first alone is 0.625 ≥ 0.6.
    assert drawn(Sampling(top_k=2, top_p=0.6), logits_of([0.3, 0.5, 0.2]))[1] == 1


def test_of_equal_tokens_the_smaller_ids_are_kept() -> None:
    logits = np.zeros(2000, dtype=np.float32)
    for sampling in (Sampling(top_p=0.5), Sampling(top_k=1000), Sampling(top_p=0.5, top_k=2000)):
        kept = drawn(sampling, logits, count=300)
        assert kept[:1000].sum() == 1
        assert kept[500:1000].any()


def test_every_part_of_a_large_vocabulary_is_drawn_as_often_as_it_is_likely() -> None:
    logits = np.random.default_rng(3).standard_normal(3000).astype(np.float32)
    weights = np.exp(logits)
    parts = drawn(Sampling(), logits, count=4000).reshape(10, 300).sum(axis=1)
    assert np.allclose(parts, (weights / weights.sum()).reshape(10, 300).sum(axis=1), atol=0.03)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=80), st.floats(0.01, 1), st.integers(0, 90))
def test_what_is_kept_is_what_a_plain_sort_keeps(scores: list[float], top_p: float, top_k: int) -> None:
    weights = np.exp(np.array(scores, dtype=np.float32))
    order = sorted(range(len(scores)), key=lambda token: (-weights[token], token))[: top_k or None]
    wanted = top_p * weights[order].sum(dtype=np.float64)
    reached = [weights[order[: count + 1]].sum(dtype=np.float64) >= wanted * (1 - 1e-9) for count in range(len(order))]
    expected = order if top_p == 1 else order[: (reached.index(True) if any(reached) else len(order)) + 1]
    kept = _likeliest(weights, top_k, top_p).tolist()
    assert kept == order[: len(kept)]
    assert abs(len(kept) - len(expected)) <= 1, "rounding may decide about the last one"
    assert kept


@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50),
    st.floats(0, 2),
    st.floats(0.01, 1),
    st.integers(0, 60),
    st.integers(-(2**63), 2**63 - 1),
)
def test_the_same_seed_draws_the_same_tokens(
    scores: list[float], temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    logits = np.array(scores, dtype=np.float32)
    sampling = Sampling(temperature, top_p, top_k, seed=seed)
    first, second = Sampler(sampling, seed=1), Sampler(sampling, seed=2)
    tokens = [first.draw(logits).token for _ in range(5)]
    assert tokens == [second.draw(logits).token for _ in range(5)]
    assert all(0 <= token < logits.size for token in tokens)


def test_without_a_seed_the_given_one_counts() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    one, two = (Sampler(Sampling(), seed).draw(logits).token for seed in (1, 2))
    assert one != two


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(), seed=1).draw(np.full(4, bad, dtype=np.float32))


# Penalties and biases.


def naive_greedy(rows: NDArray[np.float32], presence: float, frequency: float, bias: dict[int, float]) -> list[int]:
    made: list[int] = []
    for row in rows:
        scores = [
            float(score) + bias.get(token, 0) - made.count(token) * frequency - (token in made) * presence
            for token, score in enumerate(row)
        ]
        made.append(scores.index(max(scores)))
    return made


quarters = st.integers(-8, 8).map(lambda number: number / 4)  # Exact in float32, so that equals are equal.


@given(
    st.lists(st.lists(quarters, min_size=4, max_size=4), min_size=1, max_size=12),
    quarters,
    quarters,
    st.dictionaries(st.integers(0, 3), quarters, max_size=3),
)
def test_penalties_and_biases_are_openais(
    rows: list[list[float]], presence: float, frequency: float, bias: dict[int, float]
) -> None:
    logits = np.array(rows, dtype=np.float32)
    sampling = Sampling(0, presence_penalty=presence, frequency_penalty=frequency, logit_bias=tuple(bias.items()))
    sampler, before = Sampler(sampling, seed=1), logits.copy()
    assert [sampler.draw(row).token for row in logits] == naive_greedy(logits, presence, frequency, bias)
    assert np.array_equal(logits, before), "guesses are checked against the same row"


def test_min_p_leaves_what_is_likely_beside_the_likeliest() -> None:
    assert np.allclose(drawn(Sampling(min_p=0.4), logits_of([0.5, 0.1, 0.25, 0.15])), [2 / 3, 0, 1 / 3, 0], atol=0.04)
    assert drawn(Sampling(min_p=1), logits_of([0.5, 0.1, 0.4]))[0] == 1
    assert drawn(Sampling(min_p=0.5, top_p=0.9), logits_of([0.2, 0.6, 0.2]))[1] == 1


@given(st.integers(0, 2**32), st.floats(0.01, 2), st.floats(0.01, 1), st.integers(0, 9), st.floats(0, 1))
def test_every_token_takes_one_random_number(
    seed: int, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    """However the first tokens were drawn, the generator stands where its count of tokens says."""
    rows = np.random.default_rng(seed).standard_normal((6, 40)).astype(np.float32)
    sampler = Sampler(Sampling(temperature, top_p, top_k, min_p, seed), seed=0)
    for row in rows:
        sampler.draw(row)
    plain = np.random.Generator(np.random.PCG64(seed))
    plain.random(len(rows))
    assert sampler._random.random() == plain.random()


class Only:
    """Allows few tokens and notes which came."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.accepted: list[int] = []

    def allowed(self, vocab: int) -> NDArray[np.bool_]:
        return np.isin(np.arange(vocab), self.tokens)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


@given(st.sets(st.integers(0, 599), min_size=1, max_size=4), st.integers(0, 99), st.sampled_from([0.0, 1.0, 2.0]))
def test_only_what_a_constraint_allows_is_drawn(tokens: set[int], seed: int, temperature: float) -> None:
    only = Only(sorted(tokens))
    sampler = Sampler(Sampling(temperature), seed, only)
    rows = np.random.default_rng(seed).standard_normal((9, 600)).astype(np.float32) * 20
    made = [sampler.draw(row).token for row in rows]
    assert set(made) <= tokens
    assert only.accepted == made


# What the model thought.


def spell(token: int) -> bytes:
    return str(token).encode()


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=60), st.integers(0, 20), st.booleans())
def test_log_probabilities_are_those_of_the_model(scores: list[float], count: int, biased: bool) -> None:
    logits = np.array(scores, dtype=np.float32)
    bias = ((0, 100.0),) if biased else ()
    found = Sampler(Sampling(0, logit_bias=bias), 1, report=Report(count, spell)).draw(logits)
    assert found.logprobs
    wide = logits.astype(np.float64)
    expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    order = sorted(range(len(scores)), key=lambda token: (-logits[token], token))[:count]
    assert [int(each.data) for each in found.logprobs.top] == order
    assert np.allclose([each.logprob for each in found.logprobs.top], expected[order], atol=1e-4)
    assert found.logprobs.chosen.data == spell(found.token)
    assert found.logprobs.chosen.logprob == pytest.approx(expected[found.token], abs=1e-4)


def test_log_probabilities_of_the_whole_vocabulary_sum_to_one() -> None:
    logits = np.random.default_rng(1).standard_normal(20).astype(np.float32)
    found = Sampler(Sampling(), 1, report=Report(20, spell)).draw(logits)
    assert found.logprobs
    assert sum(np.exp(each.logprob) for each in found.logprobs.top) == pytest.approx(1)


def test_what_cannot_come_has_a_number_all_the_same() -> None:
    found = Sampler(Sampling(0), 1, report=Report(2, spell)).draw(np.array([0, -np.inf], dtype=np.float32))
    assert found.logprobs
    assert [each.logprob for each in found.logprobs.top] == [0, -9999]
