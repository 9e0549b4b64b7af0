import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from appliance.engine.grammar import PATTERN_CHARS_MAX, TEXT_CHARS_MAX, Grammars
from appliance.engine.protocol import Grammar, InvalidRequest, Sampling
from appliance.engine.sampling import Sampler
from appliance.engine.tokens import Tokens
from tests.support.tiny_models import END, IM_END, IM_START, tiny_tokenizer

VOCAB = 300  # More than the tokenizer has, as with models whose head was rounded up.
STOPS = (IM_END, END)
SHOP = {
    "type": "object",
    "properties": {
        "shop": {"type": "string", "maxLength": 6},
        "open": {"type": "boolean"},
        "prices": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "kind": {"enum": ["चाय", "tea"]},
    },
    "required": ["shop", "open", "prices", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    path = tmp_path_factory.mktemp("grammar") / "tokenizer.json"
    tiny_tokenizer((b" one", b"true", b'"}')).save(str(path))
    return Tokens(path, STOPS)


@pytest.fixture(scope="module")
def grammars(tokens: Tokens) -> Grammars:
    return Grammars(tokens.text, STOPS)


def noise(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((400, VOCAB)).astype(np.float32)


def answer(grammars: Grammars, grammar: Grammar, seed: int, temperature: float = 1.0) -> tuple[bytes, bool]:
    """What a model of noise answers, and whether it came to an end."""
    sampler = Sampler(Sampling(temperature, seed=seed), seed, grammars.compile(grammar))
    made = b""
    for logits in noise(seed):
        token = sampler.draw(logits).token
        if token in STOPS:
            return made, True
        made += grammars.spell(token)
    return made, False


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.0]))
def test_an_answer_of_noise_fits_its_schema(grammars: Grammars, seed: int, temperature: float) -> None:
    made, ended = answer(grammars, Grammar("json_schema", json.dumps(SHOP)), seed, temperature)
    assert ended
    value = json.loads(made)
    assert list(value) == ["shop", "open", "prices", "kind"]
    assert len(value["shop"]) <= 6
    assert value["kind"] in ("चाय", "tea")
    assert isinstance(value["open"], bool)
    assert len(value["prices"]) <= 3
    assert all(0 <= price <= 99 for price in value["prices"])


@pytest.mark.parametrize("pattern", ["[a-c]{3,9}x", r"(हाँ|नहीं)\.", r"[0-9]{4}-[0-9]{2}"])
def test_an_answer_of_noise_matches_its_expression(grammars: Grammars, pattern: str) -> None:
    for seed in range(5):
        made, ended = answer(grammars, Grammar("regex", pattern), seed)
        assert ended
        assert re.fullmatch(pattern, made.decode())


def test_an_answer_of_noise_follows_lark(grammars: Grammars) -> None:
    made, ended = answer(grammars, Grammar("lark", 'start: "(" inner ")"\ninner: /[0-9]/ | "(" inner ")"'), 1)
    assert ended
    assert re.fullmatch(rb"(\(+)[0-9](\)+)", made)
    assert made.count(b"(") == made.count(b")")


def test_the_end_comes_only_where_the_grammar_is_content(grammars: Grammars) -> None:
    matcher = grammars.compile(Grammar("regex", "ab?"))
    assert np.flatnonzero(matcher.allowed(VOCAB)).tolist() == [ord("a")]
    matcher.accept(ord("a"))
    assert np.flatnonzero(matcher.allowed(VOCAB)).tolist() == [ord("b"), *sorted(STOPS)]
    matcher.accept(ord("b"))
    assert np.flatnonzero(matcher.allowed(VOCAB)).tolist() == sorted(STOPS)


def test_control_tokens_are_no_text(grammars: Grammars) -> None:
    allowed = grammars.compile(Grammar("regex", "(.|\n)+")).allowed(VOCAB)
    assert allowed[:128].all()
    assert not allowed[IM_START]


def nested(depth: int) -> dict[str, Any]:
    """Patterns that must all match, without the word allOf."""
    return {"type": "string", "pattern": f"x{depth}", **({"anyOf": [nested(depth - 1)]} if depth else {})}


def test_many_patterns_are_fine_where_each_has_its_own_text(grammars: Grammars) -> None:
    properties = {f"p{number}": {"type": "string", "pattern": f"^x{number}+$"} for number in range(24)}
    grammars.compile(Grammar("json_schema", json.dumps({"properties": properties})))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", "{"),
        Grammar("json_schema", "[]"),
        Grammar("json_schema", '{"type": "strin"}'),
        Grammar("json_schema", '{"type": "array", "uniqueItems": true}'),
        Grammar("json_schema", '{"x-guidance": {"lenient": true}, "type": "array", "uniqueItems": true}'),
        Grammar("json_schema", '{"oneOf": [{"type": "string"}, {"minLength": 2}]}'),
        Grammar("json_schema", '{"$ref": "https://example.org/schema"}'),
        Grammar("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'),
        Grammar("json_schema", '{"not": {}}'),
        Grammar("json_schema", '{"items":' * 3000 + "{}" + "}" * 3000),
        Grammar("json_schema", json.dumps({"pattern": "a?" * PATTERN_CHARS_MAX})),
        Grammar("json_schema", json.dumps({"patternProperties": {"a?" * PATTERN_CHARS_MAX: {}}})),
        Grammar("json_schema", json.dumps({"allOf": [{"pattern": f"x{number}"} for number in range(24)]})),
        Grammar("json_schema", json.dumps(nested(24))),
        Grammar("lark", "start: A\nA: " + " & ".join(f"/.*x{number}.*/" for number in range(24))),
        Grammar("regex", "("),
        Grammar("regex", "a(?=b)"),
        Grammar("lark", "begin: /a/"),
        Grammar("lark", "start: other"),
        Grammar("lark", "start: " + "(" * 4000 + '"a"' + ")" * 4000),
        *(Grammar(kind, "a" * (size + 1)) for kind, size in TEXT_CHARS_MAX.items()),  # type: ignore[arg-type]
    ],
    ids=lambda grammar: grammar.text[:30],
)
def test_what_cannot_be_followed_is_refused(grammars: Grammars, grammar: Grammar) -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammars.compile(grammar)
    assert refused.value.field == "response_format"


def test_a_grammar_that_fails_in_the_midst_ends_the_answer(grammars: Grammars) -> None:
    matcher = grammars.compile(Grammar("regex", "ab"))
    with pytest.raises(InvalidRequest):
        matcher.accept(ord("x"))
    with pytest.raises(InvalidRequest):
        matcher.allowed(VOCAB)


def test_without_a_token_that_ends_an_answer_there_are_no_grammars(tokens: Tokens) -> None:
    with pytest.raises(InvalidRequest, match="ends an answer"):
        Grammars(tokens.text, ()).compile(Grammar("regex", "a"))


def test_tokens_are_spelled_in_bytes(grammars: Grammars, tmp_path: Path) -> None:
    assert [grammars.spell(token) for token in (0xE0, ord("a"), IM_START, VOCAB)] == [
        b"\xe0",
        b"a",
        b"<|im_start|>",
        b"",
    ]
