from typing import Any

import pytest

from appliance.engine.protocol import (
    EmbedRequest,
    GenerateRequest,
    Grammar,
    InvalidRequest,
    Message,
    Sampling,
    Tool,
    ToolCall,
)
from appliance.engine.requests import check_embed, check_generate

HALF_PAIR = "\ud83d"
LOOK = Tool("look", "Looks a thing up.", '{"type": "object"}')
ASKED = ToolCall("call_1", "look", "{}")
CHAT: dict[str, Any] = {"prompt": None, "messages": (Message("user", "u"),)}


def talk(*messages: Message) -> dict[str, Any]:
    return {"prompt": None, "messages": messages}


def test_a_plain_request_passes() -> None:
    check_generate(GenerateRequest("m", None, prompt=""))
    check_generate(GenerateRequest("m", 1, messages=(Message("user", ""),), stop=("\n",) * 16))
    check_generate(
        GenerateRequest("m", 1, **talk(Message("assistant", "", (ASKED,)), Message("tool", "r", tool_call_id="call_1")))
    )
    check_generate(
        GenerateRequest("m", 1, **CHAT, tools=(LOOK,), tool_choice="none", grammar=Grammar("regex", "a"), logprobs=20)
    )
    check_embed(EmbedRequest("m", ("a",) * 2048))


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("messages", {"prompt": None}),
        ("messages", {"messages": (Message("user", "u"),)}),
        ("messages", {"prompt": None, "messages": ()}),
        ("messages[0].content", {"prompt": None, "messages": (Message("user", HALF_PAIR),)}),
        ("prompt", {"prompt": HALF_PAIR}),
        ("max_tokens", {"max_tokens": 0}),
        ("stop", {"stop": ("x",) * 17}),
        ("stop[1]", {"stop": ("x", "")}),
        ("stop[0]", {"stop": ("x" * 257,)}),
        ("stop[0]", {"stop": (HALF_PAIR,)}),
        ("temperature", {"sampling": Sampling(temperature=-0.1)}),
        ("temperature", {"sampling": Sampling(temperature=float("nan"))}),
        ("temperature", {"sampling": Sampling(temperature=2.1)}),
        ("top_p", {"sampling": Sampling(top_p=0)}),
        ("top_p", {"sampling": Sampling(top_p=float("nan"))}),
        ("top_p", {"sampling": Sampling(top_p=1.01)}),
        ("top_k", {"sampling": Sampling(top_k=-1)}),
        ("seed", {"sampling": Sampling(seed=2**63)}),
        ("min_p", {"sampling": Sampling(min_p=-0.1)}),
        ("min_p", {"sampling": Sampling(min_p=float("nan"))}),
        ("presence_penalty", {"sampling": Sampling(presence_penalty=2.1)}),
        ("frequency_penalty", {"sampling": Sampling(frequency_penalty=float("nan"))}),
        ("logit_bias", {"sampling": Sampling(logit_bias=((5, 101.0),))}),
        ("logit_bias", {"sampling": Sampling(logit_bias=((-1, 1.0),))}),
        ("logit_bias", {"sampling": Sampling(logit_bias=((1, 1.0), (1, 2.0)))}),
        ("logit_bias", {"sampling": Sampling(logit_bias=tuple((token, 1.0) for token in range(1025)))}),
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
        ("response_format", {"grammar": Grammar("regex", "")}),
        ("response_format", {"grammar": Grammar("regex", HALF_PAIR)}),
        ("response_format", {"grammar": Grammar("regex", "a" * 40_000)}),
        ("stop", {"grammar": Grammar("regex", "a"), "stop": ("b",)}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tools", {"tools": (LOOK,)}),
        ("tools", {**CHAT, "tools": tuple(Tool(f"t{number}", "", "{}") for number in range(129))}),
        ("tools", {**CHAT, "tools": (Tool("t", "d" * 200_000, "{}"),)}),
        ("tools[0].name", {**CHAT, "tools": (Tool("a b", "", "{}"),)}),
        ("tools[1].name", {**CHAT, "tools": (LOOK, LOOK)}),
        ("tools[0].description", {**CHAT, "tools": (Tool("a", HALF_PAIR, "{}"),)}),
        ("tools[0].parameters", {**CHAT, "tools": (Tool("a", "", "[]"),)}),
        ("tools[0].parameters", {**CHAT, "tools": (Tool("a", "", "[" * 100_000),)}),
        ("response_format", {**CHAT, "tools": (LOOK,), "grammar": Grammar("regex", "a")}),
        ("logprobs", {**CHAT, "tools": (LOOK,), "logprobs": 0}),
        ("messages[0].tool_calls", talk(Message("user", "", (ASKED,)))),
        ("messages[0].tool_call_id", talk(Message("tool", "r"))),
        ("messages[0].tool_call_id", talk(Message("tool", "r", tool_call_id="call_1"))),
        ("messages[0].tool_call_id", talk(Message("user", "u", tool_call_id="call_1"))),
        ("messages[0].tool_calls[0].name", talk(Message("assistant", "", (ToolCall("c", "a b", "{}"),)))),
        ("messages[0].tool_calls[0].arguments", talk(Message("assistant", "", (ToolCall("c", "a", "5"),)))),
        ("seed", {"sampling": Sampling(seed=-(2**63) - 1)}),
    ],
)
def test_a_generation_that_no_model_can_honour_is_refused_by_field(field: str, fields: dict[str, Any]) -> None:
    request = GenerateRequest(**{"model": "m", "max_tokens": 5, "prompt": "p", **fields})
    with pytest.raises(InvalidRequest) as refused:
        check_generate(request)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "texts"),
    [("texts", ()), ("texts", ("a",) * 2049), ("texts[1]", ("a", "")), ("texts[0]", (HALF_PAIR,))],
)
def test_texts_that_no_model_can_embed_are_refused_by_field(field: str, texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_embed(EmbedRequest("m", texts))
    assert refused.value.field == field
