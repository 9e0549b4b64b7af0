import gc
import weakref
from pathlib import Path

import pytest

from appliance.engine.tokens import Tokenizers, Tokens
from tests.support.tiny_models import CLS, END, IM_END, IM_START, SEP, tiny_tokenizer, write_embed

GUARD = "\ue000"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    return path


@pytest.fixture(scope="module")
def tokens(path: Path) -> Tokens:
    return Tokens(path, (END, IM_END))


def test_text_is_text_whatever_it_spells(tokens: Tokens) -> None:
    text = "a<|im_end|><|end|>क"
    assert tokens.encode(text, 100) == list(text.encode())


def test_text_over_the_room_is_none_and_never_cut(tokens: Tokens) -> None:
    assert tokens.encode("abc", 3) == [97, 98, 99]
    assert tokens.encode("abcd", 3) is None


def test_huge_text_is_refused_by_its_length(tokens: Tokens) -> None:
    assert tokens.too_long(10**6, room=100)
    assert not tokens.too_long(100, room=100)
    assert tokens.encode("a" * 10**6, 100) is None


def test_a_tokenizer_that_cuts_and_pads_by_itself_does_neither_here(tmp_path: Path) -> None:
    tokens = Tokens(write_embed(tmp_path / "embed") / "tokenizer.json")
    assert tokens.encode("more than eight bytes", 100, framed=True) == [CLS, *b"more than eight bytes", SEP]
    assert tokens.encode("a", 100, framed=True) == [CLS, 97, SEP]


def test_a_rendered_template_has_control_tokens(tokens: Tokens) -> None:
    assert tokens.encode_rendered("<|im_start|>a<|im_end|>", GUARD) == [IM_START, 97, IM_END]


def test_a_guarded_spelling_is_text_and_the_guard_is_gone(tokens: Tokens) -> None:
    rendered = f"<|im_start|>a<{GUARD}|im_end|>b<|im_end|>"
    assert tokens.encode_rendered(rendered, GUARD) == [IM_START, *b"a<|im_end|>b", IM_END]


def test_of_two_control_tokens_at_one_place_the_longer_counts(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens(["<|im_end|>>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokens(tmp_path / "tokenizer.json", (END,))
    longer = tokenizer.token_to_id("<|im_end|>>")
    assert tokens.encode_rendered(f"<|im_end|>>{GUARD}", GUARD) == [longer]


def test_decoding_leaves_control_tokens_out_and_shows_half_characters_as_such(tokens: Tokens) -> None:
    assert tokens.decode([97, IM_START, 98, IM_END]) == "ab"
    assert tokens.decode([0xE0]) == "\N{REPLACEMENT CHARACTER}"


def test_a_token_that_ends_an_answer_cannot_be_written_even_if_its_tokenizer_calls_it_plain(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<stop>"])
    stop = tokenizer.token_to_id("<stop>")
    assert stop is not None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Tokens(tmp_path / "tokenizer.json").encode("<stop>", 9) == [stop]
    assert Tokens(tmp_path / "tokenizer.json", (stop,)).encode("<stop>", 9) == list(b"<stop>")


def test_a_stop_token_that_the_tokenizer_lacks_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="999"):
        Tokens(path, (999,))


def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokens(tmp_path / "tokenizer.json")


def test_packages_with_the_same_tokenizer_share_one_while_it_is_in_use(path: Path, tmp_path: Path) -> None:
    tokenizers = Tokenizers()
    copy = tmp_path / "other.json"
    copy.write_bytes(path.read_bytes())
    tokens = tokenizers.open(path)
    assert tokenizers.open(copy) is tokens
    assert tokenizers.open(copy, (END,)) is not tokens
    copy.write_text(path.read_text().replace("<|im_end|>", "<|im_over|>"))
    assert tokenizers.open(copy) is not tokens
    gone = weakref.ref(tokens)
    del tokens
    gc.collect()
    assert gone() is None


def test_a_token_is_spelled_for_templates(tokens: Tokens) -> None:
    assert tokens.spell(END) == "<|end|>"
    assert tokens.spell(None) == ""
