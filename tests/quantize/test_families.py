"""Every family's graph against transformers: the same random weights, somebody else's arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from quantize.running import Decoder, Floats
from quantize.sources.folder import read_folder
from tests.quantize.graphs import open_decoder
from tests.quantize.tiny import VOCAB, tiny_tokenizer

pytestmark = pytest.mark.workbench

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 48}
GEMMA = {
    "num_hidden_layers": 7,  # the sixth sees everything
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 50,
    "sliding_window": 20,
}
STRETCHED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA_3}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {}),
    "qwen3, mixture": ("Qwen3Moe", MIXTURE),
    "qwen3, mixture, shares to one": ("Qwen3Moe", {**MIXTURE, "norm_topk_prob": True}),
    "qwen3, mixture, some layers": ("Qwen3Moe", {**MIXTURE, "mlp_only_layers": [0], "decoder_sparse_step": 1}),
    "gemma 3": ("Gemma3", GEMMA),
    "gemma 3, stretched": ("Gemma3", {**GEMMA, "rope_parameters": STRETCHED}),
}
ROWS = [list(range(3, 150)), [7], list(range(90, 131)), [5, 250, 5, 250]]


class Case:
    """A random model of transformers and our full-precision graph of what it saved."""

    def __init__(self, name: str, folder: Path) -> None:
        family, changes = CASES[name]
        settings = "Gemma3TextConfig" if family == "Gemma3" else f"{family}Config"
        torch.manual_seed(3)
        config = getattr(transformers, settings)(**{**SIZES, **changes})
        self.model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        with torch.no_grad():  # They start as ones and zeros, which would hide a norm or a bias left out.
            for label, parameter in self.model.named_parameters():
                if "norm" in label or "bias" in label:
                    parameter.add_(torch.randn(parameter.shape), alpha=0.3)
        self.model.save_pretrained(folder / "saved")
        (folder / "saved" / "tokenizer.json").write_text(tiny_tokenizer())
        self.checkpoint = read_folder(folder / "saved")
        self.folder = folder

    def open(self, rows: int) -> Decoder:
        return open_decoder(self.folder, self.checkpoint, "fp32", rows)

    def truth(self, ids: list[int]) -> Floats:
        with torch.no_grad():
            return np.asarray(self.model(torch.tensor([ids])).logits[0], np.float32)


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("case"))


def assert_equal(logits: Floats, truth: Floats) -> None:
    assert np.abs(logits - truth).max() < 3e-5 * np.abs(truth).max()
    assert np.array_equal(logits.argmax(axis=-1), truth.argmax(axis=-1))


def test_a_whole_prompt(case: Case) -> None:
    ids = ROWS[0]
    assert_equal(case.open(rows=1).step([ids], every=True), case.truth(ids))


def test_a_prompt_in_chunks(case: Case) -> None:
    ids, decoder = ROWS[0], case.open(rows=1)
    chunks = [ids[:1], ids[1:30], ids[30:31], ids[31:]]
    assert_equal(np.concatenate([decoder.step([chunk], every=True) for chunk in chunks]), case.truth(ids))


def test_rows_of_different_lengths_that_go_on_together(case: Case) -> None:
    decoder = case.open(rows=len(ROWS))
    logits = decoder.step(ROWS)
    assert_equal(logits, np.stack([case.truth(row)[-1] for row in ROWS]))
    for token in (11, 12, 13):
        logits = decoder.step([[token]] * len(ROWS))
    assert_equal(logits, np.stack([case.truth([*row, 11, 12, 13])[-1] for row in ROWS]))
