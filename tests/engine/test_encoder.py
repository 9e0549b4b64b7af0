from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.encoder import Batcher, Embedding, Encoder
from appliance.engine.protocol import EmbedResult, TooLong
from appliance.engine.session import open_session
from tests.support.tiny_models import write_embed


class CountingEncoder:
    """A text's vector is its first token and its length; batches are noted."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []

    def run(self, texts: Sequence[list[int]]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        return np.array([[ids[0], len(ids)] for ids in texts], dtype=np.float32)


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, text: str, room: int, framed: bool = False) -> list[int] | None:
        ids = list(text.encode())
        return ids if len(ids) <= room else None


def batcher(encoder: CountingEncoder, batch_tokens: int = 16) -> Batcher:
    return Batcher(encoder, Bytes(), context_tokens=12, batch_tokens=batch_tokens)


def run_out(under_test: Batcher) -> dict[int, EmbedResult | TooLong]:
    results: dict[int, EmbedResult | TooLong] = {}
    while under_test.busy:
        results |= dict(under_test.step())
    return results


words = st.text(alphabet="abc", min_size=1, max_size=12)


@given(st.lists(st.lists(words, min_size=1, max_size=8), min_size=1, max_size=4))
def test_every_text_gets_its_own_vector_in_its_own_place(calls: list[list[str]]) -> None:
    encoder = CountingEncoder()
    under_test = batcher(encoder)
    for call, texts in enumerate(calls):
        under_test.submit(Embedding(call, tuple(texts)))
    results = run_out(under_test)
    for call, texts in enumerate(calls):
        result = results[call]
        assert isinstance(result, EmbedResult)
        assert result.tokens == tuple(len(text) for text in texts)
        assert result.vectors.tolist() == [[ord(text[0]), len(text)] for text in texts]
    assert all(len(batch) * max(map(len, batch)) <= 16 for batch in encoder.batches)


def test_texts_of_one_length_share_a_batch_across_calls() -> None:
    encoder = CountingEncoder()
    under_test = batcher(encoder)
    for call in range(4):
        under_test.submit(Embedding(call, ("abcd",)))
    assert len(under_test.step()) == 4
    assert [len(batch) for batch in encoder.batches] == [4]


def test_one_text_is_not_held_up_by_a_call_with_many() -> None:
    under_test = batcher(CountingEncoder())
    under_test.submit(Embedding(1, ("abcd",) * 100))
    under_test.step()
    under_test.submit(Embedding(2, ("abc",)))
    assert [call for call, _ in under_test.step()] == [2]


def test_calls_take_turns_at_being_first() -> None:
    """Even when one text of each fills a batch, nobody waits for another call to be done."""
    under_test = batcher(CountingEncoder(), batch_tokens=4)
    for call in range(3):
        under_test.submit(Embedding(call, ("abcd",) * (2 if call == 0 else 1)))
    assert [[call for call, _ in under_test.step()] for _ in range(4)] == [[], [1], [2], [0]]


def test_a_text_that_is_too_long_fails_its_call_and_no_other() -> None:
    under_test = batcher(CountingEncoder())
    under_test.submit(Embedding(1, ("ab", "a" * 13, "abc")))
    under_test.submit(Embedding(2, ("ab",)))
    results = run_out(under_test)
    assert isinstance(results[2], EmbedResult)
    too_long = results[1]
    assert isinstance(too_long, TooLong)
    assert too_long.field == "texts[1]"


def test_a_cancelled_call_is_gone() -> None:
    encoder = CountingEncoder()
    under_test = batcher(encoder)
    under_test.submit(Embedding(1, ("abcd",) * 100))
    under_test.step()
    under_test.cancel(1)
    under_test.cancel(1)
    assert not under_test.busy
    assert under_test.step() == []
    assert len(encoder.batches) == 1


# With a real graph.


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder: Path = write_embed(tmp_path_factory.mktemp("encoder") / "embed")
    return Encoder(open_session(folder / "model.fp32.onnx", "CPUExecutionProvider", 1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 255), min_size=1, max_size=30), min_size=1, max_size=6))
def test_a_batch_equals_its_singles(real: Encoder, texts: list[list[int]]) -> None:
    together = real.run(texts)
    assert np.allclose(together, np.concatenate([real.run([ids]) for ids in texts]), atol=1e-6)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_the_order_of_tokens_matters(real: Encoder) -> None:
    """Positions reach the graph: otherwise the test above would pass with all of them wrong."""
    forward, backward = real.run([[1, 2, 3], [3, 2, 1]])
    assert not np.allclose(forward, backward, atol=1e-3)
