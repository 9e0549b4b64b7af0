import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.protocol import Sampling
from appliance.engine.sampling import Sampler, _likeliest


def logits_of(probabilities: list[float]) -> NDArray[np.float32]:
    return np.log(np.array(probabilities, dtype=np.float32))


def drawn(sampling: Sampling, logits: NDArray[np.float32], count: int = 2000) -> NDArray[np.float64]:
    """How often each token was drawn."""
    sampler = Sampler(sampling, seed=7)
    return np.bincount([sampler.draw(logits) for _ in range(count)], minlength=logits.size) / count


def test_temperature_0_takes_the_likeliest_and_of_equals_the_first() -> None:
    sampler = Sampler(Sampling(temperature=0), seed=1)
    assert [sampler.draw(np.array([1, 5, 5, 2], dtype=np.float32)) for _ in range(3)] == [1, 1, 1]


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
    tokens = [first.draw(logits) for _ in range(5)]
    assert tokens == [second.draw(logits) for _ in range(5)]
    assert all(0 <= token < logits.size for token in tokens)


def test_without_a_seed_the_given_one_counts() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    one, two = (Sampler(Sampling(), seed).draw(logits) for seed in (1, 2))
    assert one != two


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(), seed=1).draw(np.full(4, bad, dtype=np.float32))
