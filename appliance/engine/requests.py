"""What any engine checks before it looks at a model: each refusal names the field and the fix."""

import json
import math
import re
from collections.abc import Sequence

from appliance.engine.protocol import EmbedRequest, GenerateRequest, InvalidRequest, Message, Sampling, Tool

STOPS_MAX = 16
STOP_CHARS_MAX = 256
TEXTS_MAX = 2048
MESSAGES_MAX = 1024
TEMPERATURE_MAX = 2.0
SEED_MAX = 2**63 - 1
PENALTY_MAX = 2.0
BIAS_MAX = 100.0
BIASES_MAX = 1024
LOGPROBS_MAX = 20
GRAMMAR_CHARS_MAX = 1 << 15
TOOLS_MAX = 128
TOOLS_CHARS_MAX = 1 << 17
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_generate(request: GenerateRequest) -> None:
    """Raise `InvalidRequest` for anything that no model could honour."""
    if (request.messages is None) == (request.prompt is None):
        raise InvalidRequest("give exactly one of messages and prompt", "messages")
    if request.messages is not None:
        if not 1 <= len(request.messages) <= MESSAGES_MAX:
            raise InvalidRequest(f"give between 1 and {MESSAGES_MAX} messages", "messages")
        _check_messages(request.messages)
    if request.prompt is not None:
        _check_text(request.prompt, "prompt")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be at least 1", "max_tokens")
    if len(request.stop) > STOPS_MAX:
        raise InvalidRequest(f"at most {STOPS_MAX} stop strings", "stop")
    for place, stop in enumerate(request.stop):
        _check_text(stop, f"stop[{place}]")
        if not 1 <= len(stop) <= STOP_CHARS_MAX:
            raise InvalidRequest(f"a stop string has between 1 and {STOP_CHARS_MAX} characters", f"stop[{place}]")
    _check_sampling(request.sampling)
    if request.logprobs is not None and not 0 <= request.logprobs <= LOGPROBS_MAX:
        raise InvalidRequest(f"ask for 0 to {LOGPROBS_MAX} alternatives of each token", "logprobs")
    if request.grammar:
        _check_text(request.grammar.text, "response_format")
        if not 1 <= len(request.grammar.text) <= GRAMMAR_CHARS_MAX:
            raise InvalidRequest(f"a grammar has 1 to {GRAMMAR_CHARS_MAX} characters", "response_format")
        if request.stop:
            raise InvalidRequest("a stop string would cut what a grammar makes whole: leave one of them out", "stop")
    _check_tools(request)


def check_embed(request: EmbedRequest) -> None:
    """Raise `InvalidRequest` for anything that no model could honour."""
    if not 1 <= len(request.texts) <= TEXTS_MAX:
        raise InvalidRequest(f"give between 1 and {TEXTS_MAX} texts", "texts")
    for place, text in enumerate(request.texts):
        if not text:
            raise InvalidRequest("an empty text has no meaning to embed: leave it out", f"texts[{place}]")
        _check_text(text, f"texts[{place}]")


def _check_sampling(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= TEMPERATURE_MAX):
        raise InvalidRequest(f"temperature must lie between 0 and {TEMPERATURE_MAX:g}", "temperature")
    if not 0 < sampling.top_p <= 1:
        raise InvalidRequest("top_p must be above 0 and at most 1", "top_p")
    if sampling.top_k < 0:
        raise InvalidRequest("top_k must be 0 (no limit) or more", "top_k")
    if not 0 <= sampling.min_p <= 1:
        raise InvalidRequest("min_p must lie between 0 and 1", "min_p")
    for field in ("presence_penalty", "frequency_penalty"):
        if not -PENALTY_MAX <= getattr(sampling, field) <= PENALTY_MAX:
            raise InvalidRequest(f"{field} must lie between {-PENALTY_MAX:g} and {PENALTY_MAX:g}", field)
    _check_biases(sampling.logit_bias)
    if sampling.seed is not None and not -SEED_MAX - 1 <= sampling.seed <= SEED_MAX:
        raise InvalidRequest("seed must fit in 64 bits, signed", "seed")


def _check_biases(biases: Sequence[tuple[int, float]]) -> None:
    if len(biases) > BIASES_MAX:
        raise InvalidRequest(f"at most {BIASES_MAX} tokens can be biased", "logit_bias")
    if len({token for token, _ in biases}) < len(biases):
        raise InvalidRequest("each token is biased once", "logit_bias")
    for token, bias in biases:
        if token < 0:
            raise InvalidRequest(f"{token} is no token", "logit_bias")
        if not -BIAS_MAX <= bias <= BIAS_MAX:
            raise InvalidRequest(
                f"the bias of token {token} must lie between {-BIAS_MAX:g} and {BIAS_MAX:g}", "logit_bias"
            )


def _check_messages(messages: Sequence[Message]) -> None:
    asked: set[str] = set()
    for place, message in enumerate(messages):
        field = f"messages[{place}]"
        _check_text(message.content, f"{field}.content")
        if message.tool_calls and message.role != "assistant":
            raise InvalidRequest("only the assistant asks for tools", f"{field}.tool_calls")
        if (message.tool_call_id is not None) != (message.role == "tool"):
            raise InvalidRequest("a tool's message, and no other, says which call it answers", f"{field}.tool_call_id")
        if message.tool_call_id is not None and message.tool_call_id not in asked:
            raise InvalidRequest("no message before asks for this call", f"{field}.tool_call_id")
        if len(message.tool_calls) > TOOLS_MAX:
            raise InvalidRequest(f"at most {TOOLS_MAX} calls in a message", f"{field}.tool_calls")
        for number, call in enumerate(message.tool_calls):
            asked.add(call.id)
            _check_name(call.name, f"{field}.tool_calls[{number}].name")
            _check_object(call.arguments, f"{field}.tool_calls[{number}].arguments")


def _check_tools(request: GenerateRequest) -> None:
    """`tool_choice` "none" shows the tools and forbids calls, so everything else goes with it."""
    if not request.tools:
        if request.tool_choice == "required":
            raise InvalidRequest("there are no tools to call", "tool_choice")
        return
    if request.messages is None:
        raise InvalidRequest("tools go with messages", "tools")
    if len(request.tools) > TOOLS_MAX:
        raise InvalidRequest(f"at most {TOOLS_MAX} tools", "tools")
    if sum(len(tool.description) + len(tool.parameters) for tool in request.tools) > TOOLS_CHARS_MAX:
        raise InvalidRequest(f"the tools are over {TOOLS_CHARS_MAX} characters together", "tools")
    names = [tool.name for tool in request.tools]
    for place, tool in enumerate(request.tools):
        _check_tool(tool, f"tools[{place}]")
        if tool.name in names[:place]:
            raise InvalidRequest(f"two tools are called {tool.name}", f"tools[{place}].name")
    if request.tool_choice == "none":
        return
    if request.grammar:
        raise InvalidRequest(
            "a grammar leaves no room for calls: give no tools, or tool_choice none", "response_format"
        )
    if request.logprobs is not None:
        raise InvalidRequest("log probabilities do not go with calls: leave them out, or tool_choice none", "logprobs")


def _check_tool(tool: Tool, field: str) -> None:
    _check_name(tool.name, f"{field}.name")
    _check_text(tool.description, f"{field}.description")
    _check_object(tool.parameters, f"{field}.parameters")


def _check_name(name: str, field: str) -> None:
    if not TOOL_NAME.fullmatch(name):
        raise InvalidRequest("a tool's name has 1 to 64 of A-Z, a-z, 0-9, _ and -", field)


def _check_object(text: str, field: str) -> None:
    _check_text(text, field)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest("this must be a JSON object", field)


def _check_text(text: str, field: str) -> None:
    """A lone surrogate is no character: it can be neither tokenized nor sent on."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the text holds half of a surrogate pair, which is no character", field) from None
