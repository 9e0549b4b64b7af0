"""Rebuilds a Hugging Face tokenizer.json from the vocabulary and merges that a GGUF file carries."""

import json
from collections.abc import Sequence
from typing import Any

from quantize.sources.checkpoint import SourceError

_CONTROL, _USER_DEFINED = 3, 4
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# How text is cut before merging, by GGUF's `tokenizer.ggml.pre`. A wrong cut gives wrong ids silently, so only what is
# proven by the parity test is listed.
_SPLITTING: dict[str, list[dict[str, Any]]] = {
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "gpt-2": [_BYTE_LEVEL],
}


def bpe_tokenizer(tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], splitting: str) -> str:
    """The text of a tokenizer.json. `kinds` are GGUF token types; control and user-defined tokens are never split."""
    if splitting not in _SPLITTING:
        raise SourceError(f"tokenizer.ggml.pre is {splitting!r}; known: {', '.join(sorted(_SPLITTING))}")
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == _CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {_CONTROL, _USER_DEFINED}
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITTING[splitting]},
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False)
