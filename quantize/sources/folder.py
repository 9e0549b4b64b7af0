"""Reads a local folder as Hugging Face lays it out: config.json, *.safetensors, tokenizer.json, a chat template."""

import json
from pathlib import Path
from typing import Any

from quantize.sources.checkpoint import Checkpoint, SourceError, Tensor
from quantize.sources.safetensors import read_safetensors
from quantize.sources.sentence import add_sentence_modules


def read_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder. Pickled weights (.bin, .pt) are not read. Raises SourceError."""
    config = _read_json(folder / "config.json")
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise SourceError(f"{folder}: no *.safetensors; save the weights in that form (pickled ones are never opened)")
    tensors: dict[str, Tensor] = {}
    for path in paths:
        for name, values in read_safetensors(path):
            tensors[name] = values
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise SourceError(f"{folder}: no tokenizer.json; save the tokenizer in its fast form")
    checkpoint = Checkpoint(config, tensors, tokenizer.read_text(encoding="utf-8"), _chat_template(folder))
    return add_sentence_modules(checkpoint, folder)


def _chat_template(folder: Path) -> str | None:
    """Newer checkpoints keep it in a file of its own, older ones in tokenizer_config.json."""
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = _read_json(settings).get("chat_template") if settings.is_file() else None
    if template is not None and not isinstance(template, str):
        raise SourceError(f"{settings}: chat_template holds several templates; keep the one to use as a plain string")
    return template


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path}: not there") from None
    except ValueError as error:
        raise SourceError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path}: not a JSON object")
    return document
