import numpy as np
import pytest

from quantize.graphs.rotary import read_turns, rotary_tables
from quantize.sources.checkpoint import SourceError
from tests.quantize.tiny import tiny_gemma3, tiny_llama

HEAD_DIM = 16
PLAIN = read_turns(tiny_llama(), HEAD_DIM)


def test_tables_start_unturned_and_turn_slower_in_later_places() -> None:
    cosines, sines = rotary_tables(PLAIN, 1024)
    assert cosines.shape == sines.shape == (1024, 8)
    assert (cosines[0] == 1).all()
    assert (sines[0] == 0).all()
    assert sines[1, 0] == pytest.approx(np.sin(1.0))
    assert sines[1, 4] == pytest.approx(np.sin(10000 ** (-4 / 8)))


def test_a_config_old_or_new_gives_the_same_turns() -> None:
    for scaling in ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}):
        old = tiny_llama(rope_scaling=scaling)
        new = tiny_llama(rope_parameters={"rope_theta": 10000.0, **scaling})
        assert read_turns(old, HEAD_DIM) == read_turns(new, HEAD_DIM) == tuple(turn / 4 for turn in PLAIN)


def test_layers_with_windows_turn_as_their_own_parameters_say() -> None:
    newer = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 100.0}}
    for changes, local in (({"rope_parameters": newer}, 100.0), ({"rope_theta": 1e6}, 10000.0)):
        checkpoint = tiny_gemma3(**changes)
        assert read_turns(checkpoint, HEAD_DIM)[1] == pytest.approx(1e6 ** (-1 / 8))
        assert read_turns(checkpoint, HEAD_DIM, "sliding_attention")[1] == pytest.approx(local ** (-1 / 8))


def test_llama_3_keeps_fast_pairs_divides_slow_ones_and_blends_between() -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    turns = read_turns(tiny_llama(rope_parameters=parameters), HEAD_DIM)
    assert turns[0] == PLAIN[0]
    assert turns[-1] == pytest.approx(PLAIN[-1] / 8)
    assert PLAIN[1] / 8 < turns[1] < PLAIN[1]
    divisors = [plain / turn for plain, turn in zip(PLAIN, turns, strict=True)]
    finished = {"rope_type": "divided", "rope_theta": 10000.0, "divisors": divisors}
    assert read_turns(tiny_llama(rope_parameters=finished), HEAD_DIM) == pytest.approx(turns)


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, "rope_type is 'yarn'"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "original_max_position_embeddings"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_unknown_or_missing_is_refused_by_name(parameters: dict[str, object], field: str) -> None:
    with pytest.raises(SourceError, match=field):
        read_turns(tiny_llama(rope_parameters={"rope_theta": 10000.0, **parameters}), HEAD_DIM)
