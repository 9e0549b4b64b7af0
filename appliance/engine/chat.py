"""Chat templates: a conversation to token ids, without letting a message speak for the template.

A message may spell a control token ("<|im_end|>"). Before rendering, every such spelling inside a message is broken by
a guard character that occurs nowhere else in the conversation; after rendering, only unbroken spellings, which
therefore come from the template, become control tokens, and the guard is taken out again: the model reads what was
written.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.engine.protocol import InvalidRequest, Message, Tool
from appliance.engine.tokens import Tokens
from appliance.engine.tools import OPEN, describe, describe_message, write_out

RENDERED_CHARS_MAX = 1 << 22
GUARDS = range(0xE000, 0xF8FF)  # Private use: assigned by nobody, so hardly ever in a text.
# What a stranger's template may raise while it renders.
TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
TRIAL = (Message("user", "नमस्ते"),)


class ChatTemplate:
    """`bos` and `eos` are the spellings a template may ask for."""

    def __init__(self, template: str, tokens: Tokens, bos: str, eos: str) -> None:
        """Raises ValueError if the template is broken; a short conversation is rendered to find out."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
        )
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        if any(len(control) < 2 for control in tokens.control_texts):
            raise ValueError("a control token of one character cannot be told from text: it does not suit a chat")
        self._tokens = tokens
        self._source = template
        self._names = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}
        try:
            self._template = environment.from_string(template)
            self.encode(TRIAL)
        except (*TEMPLATE_ERRORS, InvalidRequest) as error:
            raise ValueError(f"the chat template does not render: {error}") from None

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Ids up to and including the start of the answer. Raises InvalidRequest if the template refuses."""
        if OPEN not in self._source:
            messages, tools = write_out(messages, tools), ()
        said = [describe_message(message) for message in messages]
        shown = [describe(tool) for tool in tools] or None
        guard = self._choose_guard([said, shown])
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(
                messages=self._guard(said, guard), tools=self._guard(shown, guard), **self._names
            ):
                size += len(part)
                if size > RENDERED_CHARS_MAX:
                    raise InvalidRequest(f"the conversation is over {RENDERED_CHARS_MAX} characters", "messages")
                parts.append(part)
        except TEMPLATE_ERRORS as error:
            raise InvalidRequest(f"the model's chat template refuses: {error}", "messages") from None
        return self._tokens.encode_rendered("".join(parts), guard)

    def _choose_guard(self, said: object) -> str:
        used = set(self._source).union(*self._tokens.control_texts, *_texts(said))
        guard = next((chr(code) for code in GUARDS if chr(code) not in used), None)
        if guard is None:
            raise InvalidRequest("the conversation uses every private-use character", "messages")
        return guard

    def _guard(self, said: Any, guard: str) -> Any:
        """The same value with every text in it guarded."""
        if isinstance(said, dict):
            return {self._guard(name, guard): self._guard(value, guard) for name, value in said.items()}
        if isinstance(said, list):
            return [self._guard(item, guard) for item in said]
        if isinstance(said, str):
            for control in self._tokens.control_texts:
                said = said.replace(control, control[:1] + guard + control[1:])
        return said


def _texts(said: object) -> Iterator[str]:
    if isinstance(said, dict):
        for name, value in said.items():
            yield name
            yield from _texts(value)
    elif isinstance(said, list):
        for item in said:
            yield from _texts(item)
    elif isinstance(said, str):
        yield said


def _to_json(value: object, indent: int | None = None) -> str:
    """As Hugging Face's templates expect it: text as it is, where Jinja's own filter escapes it for a web page."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    """What templates call to refuse a conversation, for instance one whose roles do not alternate."""
    raise jinja2.TemplateError(message)
