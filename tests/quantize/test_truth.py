"""The graphs against PyTorch: the same weights, somebody else's arithmetic."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from models.manifest import read_manifest
from quantize.gate import WINDOW_TOKENS
from quantize.running import Decoder, Encoder, Floats
from quantize.sources.checkpoint import Checkpoint, dense
from quantize.sources.folder import read_folder
from quantize.texts import read_texts
from tests.conftest import Starters
from tests.quantize.graphs import geometry_of, open_decoder, open_encoder, write_graph
from tests.quantize.tiny import HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, VOCAB, tiny_tokenizer

E5, SMOL = "multilingual-e5-small", "smollm2-135m-instruct"
QUESTIONS = [
    "What is the capital of India?",
    "Name three fruits that are sold in a market.",
    "How do I keep milk fresh in summer?",
    "Write one line about the rain.",
    "What is two and two?",
    "दुकान कब खुलती है?",
    "Who sells tea at the station, and what does a cup cost there in the early morning?",
    "Hi",
]


def load(model: Any, checkpoint: Checkpoint) -> Any:
    """The checkpoint's tensors in a torch model; what is missing may only be a tied head or a pooler."""
    weights = {name: torch.from_numpy(np.array(dense(tensor))) for name, tensor in checkpoint.tensors.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight", "pooler.dense.weight", "pooler.dense.bias"}
    return model.eval()


def lane_of(starters: Starters, lane: str, folder: Path) -> Path:
    """The chat model's graph: out of its package, or written here if the lane is only measured."""
    shipped = starters.package(SMOL) / f"model.{lane}.onnx"
    return shipped if shipped.is_file() else write_graph(folder, starters.checkpoint(SMOL), lane, "decoder")


def torch_vectors(model: Any, texts: list[list[int]]) -> Floats:
    """Each text alone: mean of its last hidden states, at unit length."""
    with torch.no_grad():
        means = [model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0) for ids in texts]
    vectors = torch.stack(means)
    return np.asarray(vectors / vectors.norm(dim=1, keepdim=True), np.float32)


def torch_logits(model: Any, ids: list[int]) -> Floats:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0], np.float32)


def relative_error(values: Floats, truth: Floats) -> float:
    return float(np.abs(values - truth).max() / np.abs(truth).max())


def chat_prompts(package: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    form = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    return [tokenizer.encode(form.format(question)).ids for question in QUESTIONS]


@pytest.mark.workbench
@pytest.mark.models
def test_the_encoder_equals_pytorch_s_on_lines_of_every_language(
    starters: Starters, lines: dict[str, list[str]], tmp_path: Path
) -> None:
    checkpoint, package = starters.checkpoint(E5), starters.package(E5)
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    texts = [f"passage: {line}" for of_script in lines.values() for line in of_script[:10]]
    ids = [tokenizer.encode(text).ids for text in texts]
    truth = torch_vectors(load(BertModel(BertConfig(**checkpoint.config)), checkpoint), ids)
    for encoder, least in (
        (open_encoder(tmp_path, checkpoint, "fp32"), 0.9999),
        (Encoder(package / "model.int8.onnx"), 0.99),
    ):
        vectors = np.concatenate([encoder.embed(ids[at : at + 11]) for at in range(0, len(ids), 11)])
        cosines = (vectors * truth).sum(axis=1)
        print(f"cosine: least {cosines.min():.5f}, mean {cosines.mean():.5f} over {len(cosines)} lines")
        assert cosines.min() >= least


@pytest.mark.workbench
@pytest.mark.models
def test_the_decoder_equals_transformers(starters: Starters, tmp_path: Path) -> None:
    checkpoint = starters.checkpoint(SMOL)
    model = load(LlamaForCausalLM(LlamaConfig(**checkpoint.config)), checkpoint)
    decoder = open_decoder(tmp_path, checkpoint, "fp32", rows=1)
    for ids in chat_prompts(starters.package(SMOL)):
        decoder.reset()
        logits, truth = decoder.step([ids], every=True), torch_logits(model, ids)
        assert relative_error(logits, truth) < 1e-3
        assert np.array_equal(logits.argmax(axis=1), truth.argmax(axis=1))


@pytest.mark.models
@pytest.mark.parametrize("lane", ["k4", "k8", "q8"])
def test_eight_answers_at_once_equal_eight_alone(lane: str, starters: Starters, tmp_path: Path) -> None:
    package = starters.package(SMOL)
    geometry, graph = read_manifest(package).geometry, lane_of(starters, lane, tmp_path)
    prompts = chat_prompts(package)
    together = Decoder(graph, geometry, len(prompts), 128).greedy(prompts, 24)
    alone = Decoder(graph, geometry, 1, 128)
    assert together == [alone.greedy([prompt], 24)[0] for prompt in prompts]


@pytest.mark.models
def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(starters: Starters) -> None:
    package = starters.package(SMOL)
    decoder = Decoder(package / "model.q8.onnx", read_manifest(package).geometry, 1, 256)
    ids = [token for prompt in chat_prompts(package) for token in prompt][:120]
    whole = decoder.step([ids], every=True)
    decoder.reset()
    parts = np.concatenate([decoder.step([ids[at : at + 32]], every=True) for at in range(0, len(ids), 32)])
    assert np.array_equal(parts.argmax(axis=1), whole.argmax(axis=1))
    assert relative_error(parts, whole) < 1e-4


@pytest.mark.workbench
@pytest.mark.models
def test_the_card_s_perplexities_are_true(starters: Starters, tmp_path: Path) -> None:
    package, checkpoint = starters.package(SMOL), starters.checkpoint(SMOL)
    card = json.loads((package / "card.json").read_text())
    ids = Tokenizer.from_file(str(package / "tokenizer.json")).encode("\n".join(read_texts()["en"])).ids
    windows = [ids[at : at + WINDOW_TOKENS] for at in range(0, len(ids), WINDOW_TOKENS)]

    def perplexity(logits: list[Floats]) -> float:
        surprise = [
            torch.nn.functional.cross_entropy(torch.from_numpy(part[:-1]), torch.tensor(window[1:]), reduction="none")
            for part, window in zip(logits, windows, strict=True)
        ]
        return float(torch.cat(surprise).mean().exp())

    model = load(LlamaForCausalLM(LlamaConfig(**checkpoint.config)), checkpoint)
    full = perplexity([torch_logits(model, window) for window in windows])
    assert full == pytest.approx(card["lanes"]["fp32"]["perplexity"]["en"], rel=1e-3)
    for lane in ("k4", "k8", "q8"):
        decoder = Decoder(lane_of(starters, lane, tmp_path), read_manifest(package).geometry, 1, WINDOW_TOKENS)
        logits = []
        for window in windows:
            decoder.reset()
            logits.append(decoder.step([window], every=True))
        figures = card["lanes"][lane]
        assert perplexity(logits) == pytest.approx(figures["perplexity"]["en"], rel=1e-3)
        assert perplexity(logits) / full - 1 == pytest.approx(figures["perplexity_rise"], abs=1e-3)
        assert figures["perplexity_rise"] < 0.03


@pytest.mark.workbench
@pytest.mark.parametrize("tied", [True, False])
def test_a_random_decoder_saved_by_transformers_gives_its_logits(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(tiny_tokenizer())
    checkpoint = read_folder(tmp_path / "m")
    assert geometry_of(checkpoint).kv_heads == KV_HEADS
    ids = list(range(3, 80))
    logits = open_decoder(tmp_path, checkpoint, "fp32", rows=1).step([ids], every=True)
    assert relative_error(logits, torch_logits(model, ids)) < 1e-3


@pytest.mark.workbench
def test_a_random_encoder_saved_by_transformers_gives_its_vectors(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(tiny_tokenizer())
    texts = [list(range(3, 60)), [5], [9, 8, 7, 6]]
    vectors = open_encoder(tmp_path, read_folder(tmp_path / "m"), "fp32").embed(texts)
    assert (vectors * torch_vectors(model, texts)).sum(axis=1).min() >= 0.9999
