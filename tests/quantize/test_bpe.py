import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quantize.sources.bpe import bpe_tokenizer
from quantize.sources.checkpoint import SourceError
from tests.quantize.tiny import byte_symbols, tiny_tokenizer

_TINY = Tokenizer.from_str(tiny_tokenizer())


@given(st.text())
def test_every_text_is_spelt_in_bytes_and_comes_back(text: str) -> None:
    ids = _TINY.encode(text).ids
    assert ids == list(text.encode())
    assert _TINY.decode(ids) == text


def test_merges_apply_in_order_and_never_across_digits_or_words() -> None:
    tokens = [*byte_symbols(), "ab", "abc", "12", "Ġa"]
    tokenizer = Tokenizer.from_str(bpe_tokenizer(tokens, [1] * 260, ["a b", "ab c", "1 2", "Ġ a"], "smollm"))
    assert tokenizer.encode("abc").tokens == ["abc"]
    assert tokenizer.encode("12").tokens == ["1", "2"]
    assert tokenizer.encode("abc abc").tokens == ["abc", "Ġ", "abc"]
    assert tokenizer.encode("a १२").tokens[0] == "a"


def test_without_the_digit_rule_numbers_merge() -> None:
    tokens = [*byte_symbols(), "12"]
    tokenizer = Tokenizer.from_str(bpe_tokenizer(tokens, [1] * 257, ["1 2"], "gpt-2"))
    assert tokenizer.encode("12").tokens == ["12"]


def test_control_tokens_are_whole_and_left_out_of_what_is_read_back() -> None:
    ids = _TINY.encode("a<end>b").ids
    assert ids == [97, 256, 98]
    assert _TINY.decode(ids) == "ab"


def test_an_unknown_way_of_cutting_text_is_refused() -> None:
    with pytest.raises(SourceError, match="deepseek-llm"):
        bpe_tokenizer(["a"], [1], [], "deepseek-llm")
