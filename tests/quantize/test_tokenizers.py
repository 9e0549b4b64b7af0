"""The packaged tokenizers' ids, on 1,000 lines in each of 11 scripts, against other ways to the same ids."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex  # type: ignore[import-untyped]
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

from quantize.card import tokenizer_digest
from quantize.sources.bpe import bpe_tokenizer
from quantize.texts import read_texts
from tests.conftest import Starters
from tests.quantize.tiny import byte_symbols

E5, SMOL = "multilingual-e5-small", "smollm2-135m-instruct"
# How llama.cpp, which the file was made for, cuts text of the kind "smollm": first out come digits, one by one.
DIGIT = regex.compile(r"\p{N}")
WORD = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


Cut = Callable[[str], Iterable[str]]


def cut_smollm(text: str) -> Iterator[str]:
    at = 0
    for digit in DIGIT.finditer(text):
        yield from WORD.findall(text[at : digit.start()])
        yield digit.group()
        at = digit.end()
    yield from WORD.findall(text[at:])


class PlainBpe:
    """Byte-pair encoding as the paper has it, from a file's vocabulary and merges and nothing else."""

    def __init__(self, vocabulary: dict[str, int], merges: list[list[str]], cut: Cut, whole: bool = False) -> None:
        """`whole`: a word that is a token is not built of its parts."""
        self._vocabulary, self._cut, self._whole = vocabulary, cut, whole
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        self._symbols = byte_symbols()
        self._word = lru_cache(maxsize=200_000)(self._merge)

    def encode(self, text: str) -> list[int]:
        return [token for word in self._cut(text) for token in self._word(word)]

    def _merge(self, word: str) -> list[int]:
        parts = [self._symbols[byte] for byte in word.encode()]
        if self._whole and "".join(parts) in self._vocabulary:
            return [self._vocabulary["".join(parts)]]
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
    reference, packaged = PlainBpe(model["vocab"], model["merges"], cut_smollm), Tokenizer.from_file(str(path))
    for script, of_script in lines.items():
        for line in of_script:
            assert packaged.encode(line).ids == reference.encode(line), (script, line)


def recut(path: Path, splitting: str) -> tuple[dict[str, int], list[list[str]], Tokenizer]:
    """SmolLM2's vocabulary and merges, which are real ones, under another family's way of cutting text."""
    document = json.loads(path.read_text(encoding="utf-8"))
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    special = {token["id"] for token in document["added_tokens"]}
    kinds = [3 if index in special else 1 for index in range(len(vocabulary))]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    rebuilt = Tokenizer.from_str(bpe_tokenizer(tokens, kinds, [" ".join(merge) for merge in merges], splitting))
    rebuilt.encode_special_tokens = True
    return vocabulary, merges, rebuilt


ODD = ["It's 12345 o'clock, WE'LL see", "a\r\n\r\n  b \t c\n", "क़ ख़ \u0929 é e\u0301", "₹1,23,456 १२३४ ", "   "]


@pytest.mark.workbench
@pytest.mark.models
def test_qwen_s_cut_gives_the_ids_of_transformers_own_class(starters: Starters, lines: dict[str, list[str]]) -> None:
    vocabulary, merges, rebuilt = recut(starters.package(SMOL) / "tokenizer.json", "qwen2")
    reference = Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in merges])
    for script, of_script in {**lines, "odd": ODD}.items():
        for line in of_script[:300]:
            assert rebuilt.encode(line).ids == reference.encode(line, add_special_tokens=False), (script, line)


@pytest.mark.workbench
@pytest.mark.models
def test_llama_3_s_cut_gives_the_ids_of_plain_byte_pair_encoding(
    starters: Starters, lines: dict[str, list[str]]
) -> None:
    vocabulary, merges, rebuilt = recut(starters.package(SMOL) / "tokenizer.json", "llama-bpe")
    words = regex.compile(TikTokenConverter().pattern)
    reference = PlainBpe(vocabulary, merges, words.findall, whole=True)
    for script, of_script in {**lines, "odd": ODD}.items():
        for line in of_script[:300]:
            assert rebuilt.encode(line).ids == reference.encode(line), (script, line)


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
