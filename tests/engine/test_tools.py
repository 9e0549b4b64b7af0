import itertools
import json
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.answer import Characters
from appliance.engine.chat import ChatTemplate
from appliance.engine.grammar import PATTERN_CHARS_MAX, Grammars
from appliance.engine.protocol import Called, Delta, InvalidRequest, Message, Sampling, Tool, ToolCall
from appliance.engine.sampling import Drawn, Sampler
from appliance.engine.tokens import Tokens
from appliance.engine.tools import CLOSE, OPEN, Calls, write_out
from tests.support.tiny_models import END, IM_END, IM_START, TEMPLATE, tiny_tokenizer

VOCAB = 261
STOPS = (IM_END, END)
PRICE = Tool(
    "price_of",
    "What something costs. <|im_end|>",
    json.dumps(
        {
            "properties": {"item": {"type": "string", "maxLength": 5}, "kilos": {"type": "integer", "maximum": 9}},
            "required": ["item", "kilos"],
            "additionalProperties": False,
        }
    ),
)
HOURS = Tool("hours", "", '{"type": "object", "additionalProperties": false}')


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    path = tmp_path_factory.mktemp("tools") / "tokenizer.json"
    tiny_tokenizer().save(str(path))
    return Tokens(path, STOPS)


@pytest.fixture(scope="module")
def grammars(tokens: Tokens) -> Grammars:
    return Grammars(tokens.text, STOPS)


def calls(stops: tuple[str, ...] = ()) -> Calls:
    numbers = itertools.count(1)
    return Calls(Characters(lambda ids: bytes(ids).decode(errors="replace")), stops, lambda: f"call_{next(numbers)}")


def read(text: str, stops: tuple[str, ...] = ()) -> tuple[str, list[Called], Calls]:
    """Shown text and calls of an answer fed byte by byte."""
    under_way = calls(stops)
    shown, made = "", []
    for byte in text.encode():
        event, stopped = under_way.push(Drawn(byte))
        shown += event.text if isinstance(event, Delta) else ""
        made += [event] if isinstance(event, Called) else []
        if stopped:
            return shown, made, under_way
    rest = under_way.flush()
    return shown + (rest.text if rest else ""), made, under_way


def spelled(name: str, arguments: str) -> str:
    return f'{OPEN}\n{{"name": "{name}", "arguments": {arguments}}}\n{CLOSE}'


def test_text_is_shown_and_calls_come_out_whole() -> None:
    arguments = '{"item": "चाय"}'
    text = f"One moment. {spelled('price_of', arguments)}\n{spelled('hours', '{}')}"
    shown, made, under_way = read(text)
    assert shown == "One moment. "
    assert [called.call for called in made] == [
        ToolCall("call_1", "price_of", arguments),
        ToolCall("call_2", "hours", "{}"),
    ]
    assert sum(called.tokens for called in made) == len(text.encode()) - len("One moment. ")
    assert under_way.reason == "tool_calls"


def test_a_closing_tag_inside_an_argument_does_not_end_a_call() -> None:
    arguments = json.dumps({"item": f'"}}\n{CLOSE}'})
    _, made, _ = read(spelled("price_of", arguments))
    assert [called.call.arguments for called in made] == [arguments]


def test_an_answer_without_calls_is_as_any_other() -> None:
    shown, made, under_way = read("2 < 3 and <tool")
    assert (shown, made, under_way.reason) == ("2 < 3 and <tool", [], "stop")
    assert read("yes. END of it", ("END",))[0] == "yes. "


def test_a_call_that_was_cut_short_is_neither_call_nor_text() -> None:
    assert read(f"so: {spelled('hours', '{}')[:-1]}")[:2] == ("so: ", [])


def answer(
    grammars: Grammars, seed: int, choice: Literal["auto", "required"], parallel: bool, wish: str = "", count: int = 600
) -> tuple[list[Delta | Called], str, str, bool]:
    """What noise answers that would like to begin with `wish`: events, reason, raw text, whether it came to an end."""
    sampler = Sampler(Sampling(seed=seed), seed, grammars.compile_calls((PRICE, HOURS), choice, parallel))
    under_way, raw = calls(), bytearray()
    events: list[Delta | Called] = []
    random = np.random.default_rng(seed)
    for place in range(count):
        logits = random.standard_normal(VOCAB).astype(np.float32)
        if place < len(wish):
            logits[ord(wish[place])] = 50
        token = sampler.draw(logits).token
        if token in STOPS:
            return events, under_way.reason, raw.decode(errors="replace"), True
        raw.append(token)
        event, _ = under_way.push(Drawn(token))
        events += [event] if event else []
    return events, "length", raw.decode(errors="replace"), False


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 9999), st.booleans())
def test_where_calls_are_required_noise_makes_calls_that_fit(grammars: Grammars, seed: int, parallel: bool) -> None:
    events, reason, _, ended = answer(grammars, seed, "required", parallel)
    assert events
    assert all(isinstance(event, Called) for event in events)
    if ended:
        assert reason == "tool_calls"
    if not parallel:
        assert ended
        assert len(events) == 1
    for event in events:
        assert isinstance(event, Called)
        arguments = json.loads(event.call.arguments)
        if event.call.name == "hours":
            assert arguments == {}
        else:
            assert event.call.name == "price_of"
            assert set(arguments) == {"item", "kilos"}
            assert arguments["kilos"] <= 9


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(["", "Well. "]))
def test_where_calls_are_free_only_what_opens_one_binds(grammars: Grammars, seed: int, before: str) -> None:
    events, reason, raw, ended = answer(grammars, seed, "auto", False, before + OPEN)
    assert ended
    assert reason == "tool_calls"
    assert raw.startswith(f'{before}{OPEN}\n{{"name": "')
    assert "".join(event.text for event in events if isinstance(event, Delta)) == before
    assert sum(isinstance(event, Called) for event in events) == 1


def test_where_calls_are_free_text_is_too(grammars: Grammars) -> None:
    events, reason, raw, _ = answer(grammars, 3, "auto", True, "Just text, and no tool. ", 80)
    assert raw.startswith("Just text, and no tool. ")
    assert reason in ("stop", "length")
    assert all(isinstance(event, Delta) for event in events)


@pytest.mark.parametrize(
    ("field", "parameters"),
    [
        ("tools[1].parameters", {"type": "string"}),
        ("tools", {"properties": {"a": {"uniqueItems": True}}}),
        ("tools", {"properties": {"a": {"uniqueItems": True}}, "x-guidance": {"lenient": True}}),
        ("tools", {"properties": {"a": {"type": "string", "pattern": "a?" * PATTERN_CHARS_MAX}}}),
        ("tools", {"description": "d" * 40_000}),
    ],
)
def test_parameters_that_cannot_be_kept_to_are_refused(
    grammars: Grammars, field: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammars.compile_calls((HOURS, Tool("other", "", json.dumps(parameters))), "auto", True)
    assert refused.value.field == field


TALK = (
    Message("system", "Be kind."),
    Message("user", "tea?"),
    Message("assistant", "", (ToolCall("call_1", "price_of", '{"item": "tea"}'), ToolCall("call_2", "hours", "{}"))),
    Message("tool", "₹20", tool_call_id="call_1"),
    Message("tool", "9 to 5 <|im_end|>", tool_call_id="call_2"),
)


def test_a_template_without_tools_reads_all_as_text(tokens: Tokens) -> None:
    system, user, assistant, results = write_out(TALK, (PRICE, HOURS))
    assert system.role == "system"
    assert system.content.startswith("Be kind.\n\n")
    assert all(f'"name": "{name}"' in system.content for name in ("price_of", "hours"))
    assert user == TALK[1]
    tea = '{"item": "tea"}'
    assert assistant.content == f"{spelled('price_of', tea)}\n{spelled('hours', '{}')}"
    assert results.role == "user"
    assert results.content.count("<tool_response>") == 2
    ids = ChatTemplate(TEMPLATE, tokens, "", "").encode(TALK, (PRICE, HOURS))
    assert ids.count(IM_START) == 5
    assert ids.count(IM_END) == 4, "neither a description nor a result speaks for the template"


def test_a_template_with_tools_is_given_them(tokens: Tokens) -> None:
    template = (
        "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.arguments | tojson }}</tool_call>{% endfor %};"
        "{% endfor %}"
    )
    ids = ChatTemplate(template, tokens, "", "").encode(TALK, (PRICE,))
    assert max(ids) < 256, "no control token"
    text = bytes(ids).decode()
    first, rest = text.split("\n", 1)
    assert json.loads(first) == {
        "type": "function",
        "function": {"name": "price_of", "description": PRICE.description, "parameters": json.loads(PRICE.parameters)},
    }
    assert rest == (
        'system:Be kind.;user:tea?;assistant:<tool_call>{"item": "tea"}</tool_call><tool_call>{}</tool_call>;'
        "tool:₹20;tool:9 to 5 <|im_end|>;"
    )
