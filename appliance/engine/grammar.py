"""Grammars: which tokens may come next so that an answer is what it must be (llguidance follows them).

Everything fails closed: what the library does not support, or what costs too much work, is refused, before the answer
or in its midst; nothing is ever answered without its grammar. The bounds below were chosen so that the costliest
grammars that fit, made for the purpose, take some tenths of a second once and some milliseconds a token.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from appliance.engine.protocol import Grammar, InvalidRequest, Tool
from appliance.engine.tools import JSON_FORM, call_grammar

FIELD = "response_format"
TEXT_CHARS_MAX = {"json_schema": 1 << 15, "regex": 1 << 12, "lark": 1 << 13}
PATTERN_CHARS_MAX = 1 << 12  # All patterns of a schema together.
# What must match several expressions at once costs more than twice as much for each one more, and the library's own
# bounds do not see it: 24 take minutes. So few may stand where schemas or expressions are combined.
COMBINED_MAX = 8
REASON_CHARS_MAX = 300


class Grammars:
    """Compiles for one tokenizer. The library's form of it is made when it is first needed (up to seconds)."""

    def __init__(self, tokenizer: Callable[[], str], stop_tokens: Sequence[int]) -> None:
        """`tokenizer` gives its JSON text. Without `stop_tokens` there is no way to end an answer, so no grammars."""
        self._source = tokenizer
        self._stop_tokens = list(stop_tokens)
        self._made: LLTokenizer | None = None

    def spell(self, token: int) -> bytes:
        """A token's own bytes, empty for one that the tokenizer does not have."""
        tokenizer = self._tokenizer()
        return tokenizer.decode_bytes([token]) if token < tokenizer.vocab_size else b""

    def compile(self, grammar: Grammar, field: str = FIELD) -> "Matcher":
        """Raises InvalidRequest."""
        self._need_end(field)
        if len(grammar.text) > TEXT_CHARS_MAX[grammar.kind]:
            raise InvalidRequest(f"the grammar is over {TEXT_CHARS_MAX[grammar.kind]} characters: shorten it", field)
        return self._compile(_translate(grammar, field), field)

    def compile_calls(self, tools: Sequence[Tool], choice: Literal["auto", "required"], parallel: bool) -> "Matcher":
        """What lets calls of these tools be made, and nothing else that begins like one. Raises InvalidRequest."""
        self._need_end("tools")
        text = call_grammar(tools, choice, parallel)
        if len(text) > TEXT_CHARS_MAX["json_schema"]:
            raise InvalidRequest(f"the tools' parameters are over {TEXT_CHARS_MAX['json_schema']} characters", "tools")
        _check_patterns([json.loads(tool.parameters) for tool in tools], "tools")
        return self._compile(LLMatcher.grammar_from_lark(text), "tools")

    def _compile(self, grammar: str, field: str) -> "Matcher":
        limits = LLParserLimits(
            initial_lexer_fuel=200_000,
            step_lexer_fuel=50_000,
            step_max_items=50_000,
            max_lexer_states=8192,
            max_grammar_size=100_000,
            precompute_large_lexemes=True,  # Without it nothing bounds the work of repeats within repeats.
            verbose_errors=False,
        )
        matcher = LLMatcher(self._tokenizer(), grammar, log_level=0, limits=limits)
        compiled = Matcher(matcher, field)
        compiled.allowed(0)  # Some grammars turn out to be impossible or too much work only when they are followed.
        return compiled

    def _need_end(self, field: str) -> None:
        if not self._stop_tokens:
            raise InvalidRequest("this package names no token that ends an answer: it follows no grammar", field)

    def _tokenizer(self) -> LLTokenizer:
        if self._made is None:
            self._made = LLTokenizer(self._source(), eos_token=self._stop_tokens or [0])
        return self._made


class Matcher:
    """Follows one answer. A token that ends it is allowed only where the grammar is content."""

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher = matcher
        self._field = field

    def allowed(self, vocab: int) -> NDArray[np.bool_]:
        """bool [vocab]. Raises InvalidRequest if the grammar cannot be followed any further."""
        self._check()
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        if not bits.any():
            raise InvalidRequest("nothing can follow in this grammar with the model's tokens", self._field)
        mask = np.zeros(vocab, dtype=np.bool_)
        known = np.unpackbits(bits, count=min(vocab, 8 * bits.size), bitorder="little")
        mask[: known.size] = known
        return mask

    def accept(self, token: int) -> None:
        """Raises InvalidRequest as `allowed` does."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().splitlines()[0][:REASON_CHARS_MAX]
            raise InvalidRequest(f"this grammar cannot be followed: {reason}", self._field)


def _translate(grammar: Grammar, field: str) -> str:
    match grammar.kind:
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.text)
        case "lark":
            if grammar.text.count("&") + grammar.text.count("~") > COMBINED_MAX:
                raise InvalidRequest(f"at most {COMBINED_MAX} & and ~ in a grammar", field)
            return LLMatcher.grammar_from_lark(grammar.text)
    try:
        schema = json.loads(grammar.text)
        if not isinstance(schema, dict):
            raise InvalidRequest("a JSON Schema is an object", field)
        _check_patterns(schema, field)
        return LLMatcher.grammar_from_json_schema(
            grammar.text,
            overrides=JSON_FORM,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"this is no JSON Schema: {str(error)[:REASON_CHARS_MAX]}", field) from None


def _check_patterns(schema: object, field: str) -> None:
    """Raises InvalidRequest; RecursionError if it is nested too deeply."""
    patterns = list(_patterns(schema))
    if sum(map(len, patterns)) > PATTERN_CHARS_MAX:
        raise InvalidRequest(f"patterns may have {PATTERN_CHARS_MAX} characters together", field)
    if len(patterns) > COMBINED_MAX and _combines(schema):
        raise InvalidRequest(f"at most {COMBINED_MAX} patterns and formats where schemas are combined", field)


def _patterns(schema: object) -> Iterator[str]:
    """Every regular expression in a schema, and every format, which is one by another name."""
    if isinstance(schema, list):
        for item in schema:
            yield from _patterns(item)
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name in ("pattern", "format") and isinstance(value, str):
                yield value
            if name == "patternProperties" and isinstance(value, dict):
                yield from value
            yield from _patterns(value)


def _combines(schema: object) -> bool:
    """Whether one text may have to fit several parts of a schema at once."""
    if isinstance(schema, list):
        return any(map(_combines, schema))
    if not isinstance(schema, dict):
        return False
    beside = {"$ref", "anyOf", "oneOf"} & schema.keys() and {"pattern", "format"} & schema.keys()
    return "allOf" in schema or bool(beside) or any(map(_combines, schema.values()))
