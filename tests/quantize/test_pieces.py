"""Rebuilt SentencePiece tokenizers, against merging by score as its paper has it."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quantize.sources.checkpoint import SourceError
from quantize.sources.pieces import piece_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LETTERS = "abcd▁कि"


class Pieces:
    """Merges, again and again, the leftmost of those neighbours whose joint piece scores highest."""

    def __init__(self, tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], space_first: bool) -> None:
        self._space_first = space_first
        self._ids = {token: index for index, token in enumerate(tokens)}
        self._scores = {
            token: score for token, kind, score in zip(tokens, kinds, scores, strict=True) if kind == NORMAL
        }
        self._whole = [
            token.replace(" ", "▁") for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED
        ]
        self._whole.sort(key=len, reverse=True)
        self._ids |= {token.replace(" ", "▁"): self._ids[token] for token in tokens if "  " in token}

    def encode(self, text: str) -> list[int]:
        text = text.replace(" ", "▁")
        text = "▁" + text if self._space_first and text else text
        ids: list[int] = []
        start = at = 0
        while at <= len(text):
            found = next((whole for whole in self._whole if text.startswith(whole, at)), None)
            if found is None and at < len(text):
                at += 1
                continue
            ids += self._merge(list(text[start:at]))
            if found is None:
                break
            ids.append(self._ids[found])
            start = at = at + len(found)
        return ids

    def _merge(self, parts: list[str]) -> list[int]:
        while True:
            joined = [(-self._scores[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in self._scores]
            if not joined:
                break
            at = min(joined)[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [number for part in parts for number in self._spell(part)]

    def _spell(self, part: str) -> list[int]:
        return [self._ids[part]] if part in self._scores else [self._ids[f"<0x{byte:02X}>"] for byte in part.encode()]


def vocabulary(seed: int, space_first: bool = False) -> tuple[list[str], list[int], list[float]]:
    """Letters, and pieces that were merged of them at random; but for `space_first` two user-defined tokens."""
    draw = random.Random(seed)
    pieces = list(LETTERS)
    while len(pieces) < 60:
        joined = draw.choice(pieces) + draw.choice(pieces)
        if joined not in pieces and len(joined) < 8 and joined != "▁▁":
            pieces.append(joined)
    tokens = ["<unk>", "<end>", "  ", "<b>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    whole = NORMAL if space_first else USER_DEFINED
    kinds = [CONTROL, CONTROL, whole, whole, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    return tokens, kinds, [0.0] * 260 + [-float(place) for place in range(len(pieces))]


def tokenizer_of(seed: int, space_first: bool) -> tuple[Tokenizer, Pieces]:
    tokens, kinds, scores = vocabulary(seed, space_first)
    tokenizer = Tokenizer.from_str(piece_tokenizer(tokens, kinds, scores, space_first))
    tokenizer.encode_special_tokens = True
    return tokenizer, Pieces(tokens, kinds, scores, space_first)


BUILT = [tokenizer_of(seed, space_first) for seed in range(8) for space_first in (False, True)]


@given(st.sampled_from(BUILT), st.text(alphabet="abcd▁कि  <>\nं9", max_size=24))
def test_ids_are_those_of_merging_by_score(built: tuple[Tokenizer, Pieces], text: str) -> None:
    tokenizer, reference = built
    assert tokenizer.encode(text).ids == reference.encode(text)


@given(st.sampled_from(BUILT), st.text(max_size=40))
def test_every_text_comes_back(built: tuple[Tokenizer, Pieces], text: str) -> None:
    assert built[0].decode(built[0].encode(text).ids) == text.replace("▁", " ")


def test_control_tokens_in_a_text_are_text() -> None:
    tokens = BUILT[0][0].encode("<end>").tokens
    assert tokens == ["<0x3C>", "<0x65>", "<0x6E>", "d", "<0x3E>"]


def test_user_defined_tokens_and_spaces_in_a_row_are_whole() -> None:
    assert BUILT[0][0].encode("<b>9  9").tokens == ["<b>", "<0x39>", "▁▁", "<0x39>"]


def test_words_are_merged_one_by_one_where_no_piece_reaches_over_a_space() -> None:
    kinds = [UNKNOWN, *[BYTE] * 256, *[NORMAL] * 3]
    own = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]

    def pattern(*pieces: str) -> str:
        document = json.loads(piece_tokenizer([*own, *pieces], kinds, [0.0] * 260, False))
        return str(document["pre_tokenizer"]["pattern"]["Regex"])

    assert pattern("▁", "a", "▁a") == "▁"
    assert pattern("▁", ">", ">▁<") == "(?:(?<![>])▁|▁(?![<]))"
    assert pattern("▁", "a", "a▁") == "(?<![a])▁"


def test_what_is_no_such_vocabulary_is_refused() -> None:
    tokens, kinds, scores = vocabulary(0)
    with pytest.raises(SourceError, match="token_type"):
        piece_tokenizer(tokens[4:], kinds[4:], scores[4:], False)
    with pytest.raises(SourceError, match="add_space_prefix"):
        piece_tokenizer(tokens, kinds, scores, True)
