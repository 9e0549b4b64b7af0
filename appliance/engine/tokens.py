"""Text to token ids and back. Text from outside never becomes a control token, whatever it spells."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from weakref import WeakValueDictionary

from tokenizers import Tokenizer

CHARS_PER_TOKEN_MAX = 64  # No text that means anything has more; the longest words of a vocabulary have about 20.


class Tokens:
    """A package's tokenizer, and for decoders a second form of it that knows control tokens, for templates.

    Control tokens are the tokenizer's special tokens and the tokens that end an answer. Neither form truncates or pads.
    Safe to use from several threads.
    """

    def __init__(self, path: Path, stop_tokens: Sequence[int] = ()) -> None:
        """`stop_tokens`: what ends an answer, none for an encoder (a second form would take as long to open again).

        Raises ValueError naming the file if it is no tokenizer or lacks a stop token.
        """
        text = path.read_text(encoding="utf-8")
        if stop_tokens:
            text = _mark_special(path, text, stop_tokens)
        self._control = _open(path, text) if stop_tokens else None
        self._plain = _open(path, text)
        self._plain.encode_special_tokens = True
        added = self._plain.get_added_tokens_decoder()
        self._controls = {token.content: number for number, token in added.items() if token.special}
        self.control_texts = tuple(sorted(self._controls, key=len))

    def text(self) -> str:
        """The tokenizer as JSON, what ends an answer marked as special."""
        return (self._control or self._plain).to_str()

    def encode(self, text: str, room: int, framed: bool = False) -> list[int] | None:
        """Ids of plain text; None if more than `room`. `framed` adds what the model expects around a text ([CLS] …).

        A text that cannot fit by far is refused by its length, so that a huge one costs nothing.
        """
        if self.too_long(len(text), room):
            return None
        ids = self._plain.encode(text, add_special_tokens=framed).ids
        return ids if len(ids) <= room else None

    def too_long(self, characters: int, room: int) -> bool:
        """Whether a text of that size need not even be tokenized to know that it does not fit."""
        return characters > room * CHARS_PER_TOKEN_MAX

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        """Ids of a rendered template. Control tokens spelled in it count, except where `guard` breaks their spelling.

        The guard characters are removed. Without any, this is exactly what the tokenizer does with the whole text.
        """
        assert self._control, "only a tokenizer with stop tokens has templates"
        if guard not in text:
            return self._control.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        while text:
            place, token = self._next_control(text)
            plain = text[:place].replace(guard, "")
            if plain:
                ids += self._plain.encode(plain, add_special_tokens=False).ids
            if token:
                ids.append(self._controls[token])
            text = text[place + len(token) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without control tokens. Unfinished UTF-8 shows as U+FFFD."""
        return self._plain.decode(ids, skip_special_tokens=True)

    def spell(self, token: int | None) -> str:
        """A token's own spelling, for templates ("" for None)."""
        return "" if token is None else self._plain.id_to_token(token) or ""

    def _next_control(self, text: str) -> tuple[int, str]:
        """Where the first control token starts and which (of several there the longest); end of text and "" if none."""
        found = [(text.find(token), -len(token), token) for token in self.control_texts]
        place, _, token = min((hit for hit in found if hit[0] >= 0), default=(len(text), 0, ""))
        return place, token


class Tokenizers:
    """Those in use, by content: packages with the same tokenizer share one (XLM-R's takes 280 MB and a second)."""

    def __init__(self) -> None:
        self._used: WeakValueDictionary[tuple[bytes, tuple[int, ...]], Tokens] = WeakValueDictionary()

    def open(self, path: Path, stop_tokens: Sequence[int] = ()) -> Tokens:
        """Raises as `Tokens` does."""
        name = (sha256(path.read_bytes()).digest(), tuple(stop_tokens))
        tokens = self._used.get(name)
        if tokens is None:
            tokens = self._used[name] = Tokens(path, stop_tokens)
        return tokens


def _open(path: Path, text: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 - tokenizers raises Exception itself, whatever is wrong
        raise ValueError(f"{path.name} is not a tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _mark_special(path: Path, text: str, stop_tokens: Sequence[int]) -> str:
    """A stop token that its tokenizer does not call special would let a text end the answer: call it special."""
    document = json.loads(text)
    added = {token["id"]: token for token in document["added_tokens"]}
    for stop in stop_tokens:
        if stop not in added:
            raise ValueError(f"{path.name} has no added token {stop}, which is to end an answer")
        added[stop]["special"] = True
    return json.dumps(document)
