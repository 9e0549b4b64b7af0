"""Rebuilds a Hugging Face tokenizer.json from the vocabulary and merges that a GGUF file carries."""

import json
from collections.abc import Sequence
from typing import Any

from quantize.sources.checkpoint import SourceError

_CONTROL, USER_DEFINED = 3, 4
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _by_pattern(pattern: str) -> list[dict[str, Any]]:
    """Words are what a pattern finds, then bytes."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, {**_BYTE_LEVEL, "use_regex": False}]


# How text is cut before merging, by GGUF's `tokenizer.ggml.pre`. A wrong cut gives wrong ids silently, so only what is
# proven by the parity test is listed.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITTING: dict[str, list[dict[str, Any]]] = {
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "gpt-2": [_BYTE_LEVEL],
    "llama-bpe": _by_pattern(_WORDS % r"\p{N}{1,3}"),
    "qwen2": _by_pattern(_WORDS % r"\p{N}"),
}
# What else their authors' tokenizers do: Qwen's brings text into Unicode's composed form, Llama 3's takes a word whole
# that is a token.
_NORMALIZERS: dict[str, dict[str, Any]] = {"qwen2": {"type": "NFC"}}
_WHOLE_WORDS = frozenset({"llama-bpe"})


def bpe_tokenizer(tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str], splitting: str) -> str:
    """The text of a tokenizer.json. `kinds` are GGUF token types; control and user-defined tokens are never split."""
    if splitting not in _SPLITTING:
        raise SourceError(f"tokenizer.ggml.pre is {splitting!r}; known: {', '.join(sorted(_SPLITTING))}")
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(tokens, kinds, normalized=False),
        "normalizer": _NORMALIZERS.get(splitting),
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
            "ignore_merges": splitting in _WHOLE_WORDS,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False)


def added_tokens(tokens: Sequence[str], kinds: Sequence[int], normalized: bool) -> list[dict[str, Any]]:
    """Tokens that are found in a text as they are. `normalized`: those of the user's, only once it is normalized."""
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": normalized and kind == USER_DEFINED,
            "special": kind == _CONTROL,
        }
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {_CONTROL, USER_DEFINED}
    ]
