from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.cache import Cache
from appliance.engine.decoder import Row
from appliance.engine.kernel_decoder import KernelDecoder, kernel_tile
from appliance.engine.session import open_session
from kernels.library import find_library
from tests.support.tiny_kernel_decoder import HEAD_DIM, KV_HEADS, LAYERS, save_kernel_decoder

VOCAB, SLOTS, CAPACITY = 97, 3, 100


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> KernelDecoder:
    graph = save_kernel_decoder(tmp_path_factory.mktemp("tiny") / "model.onnx", VOCAB)
    cache = Cache(LAYERS, SLOTS, KV_HEADS, CAPACITY, kernel_tile(HEAD_DIM))
    return KernelDecoder(open_session(graph, "CPUExecutionProvider", 2, find_library()), cache, VOCAB)


def greedy(decoder: KernelDecoder, slot: int, prompt: Sequence[int], count: int) -> list[int]:
    tokens = list(prompt)
    start = 0
    for _ in range(count):
        logits = decoder.run([Row(slot, tokens[start:], start)])[0]
        start = len(tokens)
        tokens.append(int(logits.argmax()))
    return tokens[len(prompt) :]


def test_answers_depend_on_every_token_before(decoder: KernelDecoder) -> None:
    first, second = ([word, *range(20)] for word in (5, 6))
    logits = [decoder.run([Row(0, prompt, 0)])[0].copy() for prompt in (first, second)]
    assert not np.array_equal(*logits)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40), min_size=2, max_size=SLOTS),
    cut=st.integers(1, 40),
)
def test_side_by_side_and_in_pieces_the_logits_are_those_of_each_alone(
    decoder: KernelDecoder, prompts: list[list[int]], cut: int
) -> None:
    alone = [decoder.run([Row(0, prompt, 0)])[0].copy() for prompt in prompts]
    first = [Row(slot, prompt[:cut], 0) for slot, prompt in enumerate(prompts)]
    together = list(decoder.run(first).copy())
    later = [slot for slot, prompt in enumerate(prompts) if len(prompt) > cut]
    if later:
        for slot, logits in zip(later, decoder.run([Row(s, prompts[s][cut:], cut) for s in later]), strict=True):
            together[slot] = logits.copy()
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_slot_used_before_gives_the_same_answer(decoder: KernelDecoder) -> None:
    wanted = greedy(decoder, 1, [1, 2, 3], 20)
    greedy(decoder, 1, [9] * 50, 20)
    assert greedy(decoder, 1, [1, 2, 3], 20) == wanted
