"""Chat templates: a conversation to token ids, without letting a message speak for the template.

A message may spell a control token ("<|im_end|>"). Before rendering, every such spelling inside a message is broken by
a guard character that occurs nowhere else in the conversation; after rendering, only unbroken spellings, which
therefore come from the template, become control tokens, and the guard is taken out again: the model reads what was
written.
"""

from collections.abc import Sequence

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.engine.protocol import InvalidRequest, Message
from appliance.engine.tokens import Tokens

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

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to and including the start of the answer. Raises InvalidRequest if the template refuses."""
        guard = self._choose_guard(messages)
        guarded = [{"role": message.role, "content": self._guard(message.content, guard)} for message in messages]
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate(messages=guarded, **self._names):
                size += len(part)
                if size > RENDERED_CHARS_MAX:
                    raise InvalidRequest(f"the conversation is over {RENDERED_CHARS_MAX} characters", "messages")
                parts.append(part)
        except TEMPLATE_ERRORS as error:
            raise InvalidRequest(f"the model's chat template refuses: {error}", "messages") from None
        return self._tokens.encode_rendered("".join(parts), guard)

    def _choose_guard(self, messages: Sequence[Message]) -> str:
        used = set(self._source).union(*self._tokens.control_texts, *(message.content for message in messages))
        guard = next((chr(code) for code in GUARDS if chr(code) not in used), None)
        if guard is None:
            raise InvalidRequest("the conversation uses every private-use character", "messages")
        return guard

    def _guard(self, content: str, guard: str) -> str:
        for control in self._tokens.control_texts:
            content = content.replace(control, control[:1] + guard + control[1:])
        return content


def _refuse(message: str) -> None:
    """What templates call to refuse a conversation, for instance one whose roles do not alternate."""
    raise jinja2.TemplateError(message)
