"""From generated tokens to text that may be shown: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from appliance.engine.protocol import Called, ChosenToken, Delta
from appliance.engine.sampling import Drawn

HALF = "\N{REPLACEMENT CHARACTER}"  # What a tokenizer decodes an unfinished UTF-8 sequence to.


class Characters:
    """Decodes token by token. A token that ends inside a character yields nothing until the character is whole.

    `context` is the end of the prompt, for tokenizers that decode a token differently at the start of a text.
    Bytes that never become a character show as U+FFFD once something readable follows; at the end they are dropped.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)
        self._shown = len(self._window)

    def push(self, token: int) -> str:
        self._window.append(token)
        before = self._decode(self._window[: self._shown])
        whole = self._decode(self._window)
        if whole.endswith(HALF) or len(whole) <= len(before):
            return ""
        # The tokens just shown stay as context; the ones before them can no longer change anything.
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return whole[len(before) :]


@dataclass(frozen=True)
class Piece:
    """Text that became whole with the last of `tokens` tokens."""

    text: str
    tokens: int
    logprobs: tuple[ChosenToken, ...]


class Answer:
    """The text of one generation. A piece of text that may be the start of a stop string is held back whole."""

    def __init__(self, characters: Characters, stops: Sequence[str]) -> None:
        self._characters = characters
        self._stops = tuple(stops)
        self._held: list[Piece] = []
        self._silent: list[Drawn] = []  # Tokens that have produced no text yet.
        self.cut = ""  # The stop string that was completed,
        self.behind = ""  # what its last token held after it,
        self.unshown = 0  # and how many tokens had no part in any text before it.

    @property
    def reason(self) -> Literal["stop", "tool_calls"]:
        """Why it ended, if not for its length."""
        return "stop"

    def push(self, drawn: Drawn) -> tuple[Delta | Called | None, bool]:
        """The text that a token sets free, and whether a stop string was completed (then nothing more may follow)."""
        self._silent.append(drawn)
        text = self._characters.push(drawn.token)
        if not text:
            return None, False
        logprobs = tuple(each.logprobs for each in self._silent if each.logprobs)
        self._held.append(Piece(text, len(self._silent), logprobs))
        self._silent = []
        whole = "".join(piece.text for piece in self._held)
        cuts = [(place, stop) for stop in self._stops if (place := whole.find(stop)) >= 0]
        if cuts:
            place, self.cut = min(cuts)
            delta = self._free(place, partly=True)
            self.behind = whole[place + len(self.cut) :]
            self.unshown = sum(piece.tokens for piece in self._held)
            return delta, True
        return self._free(len(whole) - _suspect(whole, self._stops), partly=False), False

    def flush(self) -> Delta | None:
        """What was held back in case a stop string followed; call once, at the end."""
        return self._free(sum(len(piece.text) for piece in self._held), partly=False)

    def _free(self, length: int, partly: bool) -> Delta | None:
        """Release the held pieces that lie within `length` characters, the last one cut there if `partly`."""
        shown, tokens = "", 0
        logprobs: list[ChosenToken] = []
        while self._held and length > 0 and (partly or len(self._held[0].text) <= length):
            piece = self._held.pop(0)
            shown += piece.text[:length]
            tokens += piece.tokens
            logprobs += piece.logprobs
            length -= len(piece.text)
        return Delta(shown, tokens, tuple(logprobs)) if shown else None


def _suspect(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of `text` with which a stop string may begin."""
    longest = max((len(stop) for stop in stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0
