"""Every family of encoders, with every head, against transformers: the same weights, somebody else's arithmetic."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from quantize.graphs.heads import EncoderTask
from quantize.running import Floats
from quantize.sources.checkpoint import Checkpoint
from quantize.sources.folder import read_folder
from tests.quantize.graphs import open_encoder
from tests.quantize.tiny import VOCAB, tiny_tokenizer

pytestmark = pytest.mark.workbench

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 258,
    "initializer_range": 0.2,
    "pad_token_id": 1,
}
DISTIL = {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "bert, tanh": ("Bert", {"hidden_act": "gelu_new"}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1, "max_position_embeddings": 260}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "pad_token_id": 3, "max_position_embeddings": 260}),
    "distilbert": ("DistilBert", DISTIL),
    "mpnet": ("MPNet", {"max_position_embeddings": 260}),
    "modernbert": ("ModernBert", {"local_attention": 16, "num_hidden_layers": 5}),
    "modernbert, means": ("ModernBert", {"local_attention": 16, "classifier_pooling": "mean", "norm_bias": True}),
}
TEXTS = [list(range(4, 205)), [7], list(range(90, 131)), [5, 250, 5, 250]]
SPECIALS = {"bos_token_id": 2, "eos_token_id": 2, "cls_token_id": 2, "sep_token_id": 2}


def make(name: str, kind: str, folder: Path, **changes: Any) -> tuple[Any, Checkpoint]:
    """A random model of transformers and what it saved."""
    family, own = FAMILIES[name]
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **SPECIALS, **own, **changes})
    model = getattr(transformers, f"{family}{kind}")(config).eval()
    with torch.no_grad():  # They start as ones and zeros, which would hide a norm or a bias left out.
        for label, parameter in model.named_parameters():
            if "norm" in label.lower() or "bias" in label:
                parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    model.save_pretrained(folder / "saved")
    (folder / "saved" / "tokenizer.json").write_text(tiny_tokenizer())
    return model, read_folder(folder / "saved")


def unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def hidden(model: Any, ids: list[int]) -> Floats:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).last_hidden_state[0], np.float32)


def logits(model: Any, ids: list[int], **more: Any) -> Floats:
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids]), **more).logits[0], np.float32)


def assert_equal(values: Floats, truth: Floats) -> None:
    assert values.shape == truth.shape
    assert np.abs(values - truth).max() < 3e-5 * np.abs(truth).max()


def assert_near(values: Floats, truth: Floats) -> None:
    """Eight bits of a random model, whose few logits may lie near 0."""
    assert float((unit(values.ravel()) * unit(truth.ravel())).sum()) > 0.98


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_vectors(name: str, pooling: str, tmp_path: Path) -> None:
    model, checkpoint = make(name, "Model", tmp_path)
    checkpoint = Checkpoint({**checkpoint.config, "sentence_pooling": pooling}, checkpoint.tensors, "")
    states = [hidden(model, ids) for ids in TEXTS]
    truth = unit(np.stack([state.mean(axis=0) if pooling == "mean" else state[0] for state in states]))
    assert_equal(open_encoder(tmp_path, checkpoint, "fp32").run(TEXTS), truth)
    assert_near(open_encoder(tmp_path, checkpoint, "int8").run(TEXTS), truth)


@pytest.mark.parametrize(("task", "labels"), [("classification", 3), ("rerank", 1)])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_labels_of_texts(name: str, task: EncoderTask, labels: int, tmp_path: Path) -> None:
    model, checkpoint = make(name, "ForSequenceClassification", tmp_path, num_labels=labels)
    truth = np.stack([logits(model, ids) for ids in TEXTS])
    assert_equal(open_encoder(tmp_path, checkpoint, "fp32", task).run(TEXTS), truth)
    assert_near(open_encoder(tmp_path, checkpoint, "int8", task).run(TEXTS), truth)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_labels_of_tokens(name: str, tmp_path: Path) -> None:
    model, checkpoint = make(name, "ForTokenClassification", tmp_path, num_labels=5)
    truth = np.concatenate([logits(model, ids) for ids in TEXTS])
    assert_equal(open_encoder(tmp_path, checkpoint, "fp32", "token-classification").run(TEXTS), truth)
    assert_near(open_encoder(tmp_path, checkpoint, "int8", "token-classification").run(TEXTS), truth)


@pytest.mark.parametrize("name", ["bert", "bert, tanh"])
def test_tokens_of_a_second_text_are_told_apart(name: str, tmp_path: Path) -> None:
    model, checkpoint = make(name, "ForSequenceClassification", tmp_path, num_labels=1)
    types = [[0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2) for ids in TEXTS]
    pairs = zip(TEXTS, types, strict=True)
    truth = np.stack([logits(model, ids, token_type_ids=torch.tensor([kinds])) for ids, kinds in pairs])
    encoder = open_encoder(tmp_path, checkpoint, "fp32", "rerank")
    assert_equal(encoder.run(TEXTS, types), truth)
    assert np.abs(encoder.run(TEXTS) - truth).max() > 1e-2


def test_a_sentence_s_own_matrix(tmp_path: Path) -> None:
    model, checkpoint = make("distilbert", "Model", tmp_path)
    draw = np.random.default_rng(1)
    weight, bias = (draw.standard_normal(size).astype(np.float32) for size in ((32, 64), (32,)))
    more = {"sentence_dense.linear.weight": weight, "sentence_dense.linear.bias": bias}
    config = {**checkpoint.config, "sentence_pooling": "mean", "sentence_dense_activation": "tanh"}
    checkpoint = Checkpoint(config, {**checkpoint.tensors, **more}, "")
    means = np.stack([hidden(model, ids).mean(axis=0) for ids in TEXTS])
    assert_equal(open_encoder(tmp_path, checkpoint, "fp32").run(TEXTS), unit(np.tanh(means @ weight.T + bias)))
