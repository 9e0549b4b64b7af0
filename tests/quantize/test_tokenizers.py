"""The packaged tokenizers' ids, on 1,000 lines in each of 11 scripts, against other ways to the same ids."""

import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from quantize.card import tokenizer_digest
from quantize.texts import read_texts
from tests.conftest import Starters
from tests.quantize.tiny import byte_symbols

E5, SMOL = "multilingual-e5-small", "smollm2-135m-instruct"
# How llama.cpp, which the file was made for, cuts text of the kind "smollm": first out come digits, one by one.
DIGIT = regex.compile(r"\p{N}")
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def cut(text: str) -> Iterator[str]:
    at = 0
    for digit in DIGIT.finditer(text):
        yield from WORD.findall(text[at : digit.start()])
        yield digit.group()
        at = digit.end()
    yield from WORD.findall(text[at:])


class PlainBpe:
    """Byte-pair encoding as the paper has it, from a file's vocabulary and merges and nothing else."""

    def __init__(self, vocabulary: dict[str, int], merges: list[list[str]]) -> None:
        self._vocabulary = vocabulary
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._symbols = byte_symbols()
        self._word = lru_cache(maxsize=200_000)(self._merge)

    def encode(self, text: str) -> list[int]:
        return [token for word in cut(text) for token in self._word(word)]

    def _merge(self, word: str) -> list[int]:
        parts = [self._symbols[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, at = min((self._ranks.get(pair, len(self._ranks)), at) for at, pair in enumerate(pairwise(parts)))
            if rank == len(self._ranks):
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [self._vocabulary[part] for part in parts]


@pytest.mark.workbench
@pytest.mark.models
def test_smollm2_s_ids_are_those_of_plain_byte_pair_encoding(starters: Starters, lines: dict[str, list[str]]) -> None:
    path = starters.package(SMOL) / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    reference, packaged = PlainBpe(model["vocab"], model["merges"]), Tokenizer.from_file(str(path))
    for script, of_script in lines.items():
        for line in of_script:
            assert packaged.encode(line).ids == reference.encode(line), (script, line)


@pytest.mark.models
def test_smollm2_s_texts_come_back(starters: Starters, lines: dict[str, list[str]]) -> None:
    packaged = Tokenizer.from_file(str(starters.package(SMOL) / "tokenizer.json"))
    for of_script in lines.values():
        for line in of_script:
            assert packaged.decode(packaged.encode(line).ids) == line


@pytest.mark.models
def test_e5_s_ids_are_those_of_the_tokenizer_it_was_published_with(
    starters: Starters, lines: dict[str, list[str]]
) -> None:
    packaged = Tokenizer.from_file(str(starters.package(E5) / "tokenizer.json"))
    published = Tokenizer.from_file(str(starters.source_folder(E5) / "tokenizer.json"))
    for script, of_script in lines.items():
        ours, theirs = packaged.encode_batch(of_script), published.encode_batch(of_script)
        assert [entry.ids for entry in ours] == [entry.ids for entry in theirs], script


def stored_pieces(path: Path) -> list[str]:
    """An E5S1 file's own sentencepiece pieces, by id: after 44 bytes of sizes, their ends, scores and texts."""
    data = path.read_bytes()
    count, *_, length = struct.unpack_from("<5iQ", data, 44)
    ends = struct.unpack_from(f"<{count + 1}I", data, 72)
    blob = data[72 + 4 * (2 * count + 1) :][:length]
    return [blob[a:b].decode() for a, b in pairwise(ends)]


@pytest.mark.models
def test_e5_s_pieces_are_those_its_weights_were_stored_with(starters: Starters) -> None:
    packaged = Tokenizer.from_file(str(starters.package(E5) / "tokenizer.json"))
    pieces = stored_pieces(starters.source_folder(E5) / "e5-small-q4.bin")
    assert len(pieces) == packaged.get_vocab_size() == 250_002
    assert [packaged.id_to_token(index) for index in range(len(pieces))] == pieces


@pytest.mark.models
@pytest.mark.parametrize("name", [E5, SMOL])
def test_no_packaged_tokenizer_cuts_or_pads(name: str, starters: Starters) -> None:
    package = starters.package(name)
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    assert (tokenizer.truncation, tokenizer.padding) == (None, None)
    assert len(tokenizer.encode("दुकान " * 5000).ids) > 5000
    card = json.loads((package / "card.json").read_text())
    assert card["tokenizer_digest"] == tokenizer_digest(tokenizer, read_texts())
