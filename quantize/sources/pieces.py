"""Rebuilds a tokenizer.json from SentencePiece pieces with scores, as GGUF files of the kind "llama" carry them.

SentencePiece merges, of all neighbours in a text, those whose joint piece scores highest, and spells in bytes what no
piece spells. tokenizers' BPE does the same if its merges are all ways to cut a piece in two, best piece first.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from quantize.sources.bpe import USER_DEFINED, added_tokens
from quantize.sources.checkpoint import SourceError

_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6
_SPACE = "▁"  # what SentencePiece writes for a space


def piece_tokenizer(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], space_first: bool) -> str:
    """The text of a tokenizer.json. `kinds` are GGUF token types; `space_first`: a text is read as if after a space."""
    unknown = [index for index, kind in enumerate(kinds) if kind == _UNKNOWN or tokens[index] == "<unk>"]
    if len(unknown) != 1 or sum(kind == _BYTE for kind in kinds) != 256:
        raise SourceError("tokenizer.ggml.token_type: one unknown token and 256 for the bytes are needed")
    if space_first and USER_DEFINED in kinds:  # tokenizers would put the space before each of them too.
        raise SourceError("tokenizer.ggml.add_space_prefix: with user-defined tokens it cannot be rebuilt")
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        # SentencePiece finds user-defined pieces before it merges anything, in the text with its spaces written out.
        "added_tokens": added_tokens(tokens, kinds, normalized=True),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(space_first)},
        "pre_tokenizer": _splitting(tokens, kinds),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": _decoders(space_first)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown[0]],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": _merges(tokens, kinds, scores),
        },
    }
    return json.dumps(document, ensure_ascii=False)


def _merges(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    places = {token: index for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _NORMAL}
    cuts = (
        (-scores[index], index, places[piece[:at]], places[piece[at:]])
        for piece, index in places.items()
        for at in range(1, len(piece))
        if piece[:at] in places and piece[at:] in places
    )
    return [(tokens[left], tokens[right]) for _, _, left, right in sorted(cuts)]


def _splitting(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, Any]:
    """Before a space, unless a piece could reach over it: word by word is faster, and words can be remembered."""
    pieces = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _NORMAL]
    over = {piece[at - 1 : at + 2] for piece in pieces for at in range(1, len(piece)) if piece[at] == _SPACE}
    ends = {around[0] for around in over if len(around) == 2}
    before, after = ({around[side] for around in over if len(around) == 3} for side in (0, 2))
    place = f"(?:{_none_of('<!', before)}{_SPACE}|{_SPACE}{_none_of('!', after)})" if before else _SPACE
    pattern = {"Regex": _none_of("<!", ends) + place}
    return {"type": "Split", "pattern": pattern, "behavior": "MergedWithNext", "invert": False}


def _none_of(look: str, characters: Collection[str]) -> str:
    return f"(?{look}[{''.join(re.escape(character) for character in sorted(characters))}])" if characters else ""


def _normalizers(space_first: bool) -> list[dict[str, Any]]:
    first = [{"type": "Prepend", "prepend": _SPACE}] if space_first else []
    return [*first, {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}]


def _decoders(space_first: bool) -> list[dict[str, Any]]:
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return [*decoders, {"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space_first else decoders
