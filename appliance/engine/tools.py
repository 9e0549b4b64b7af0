"""Calls of tools: how a model is shown tools, how it must ask for them, and how what it asks is read.

One form for all packages, Hermes': `<tool_call>`, a line `{"name": …, "arguments": …}`, `</tool_call>`. A chat template
that speaks it is given tools and calls as Hugging Face's templates take them. For any other the tools are listed in the
system message, calls stand in the assistant's text, and results come as a user's message in `<tool_response>` tags.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from appliance.engine.answer import Answer, Characters
from appliance.engine.protocol import Called, Delta, InvalidRequest, Message, Tool, ToolCall
from appliance.engine.sampling import Drawn

if TYPE_CHECKING:  # The library has this type for type checkers only.
    from llguidance._lib import JsonCompileOptions

OPEN, CLOSE = "<tool_call>", "</tool_call>"
BODY = re.compile(r'\s*(?:<tool_call>)?\s*(\{"name": "([A-Za-z0-9_-]+)", "arguments": (.*)\})\s*', re.DOTALL)
SYSTEM = f"""You may call tools. Each line describes one:
<tools>
%s
</tools>
To call one, write nothing but
{OPEN}
{{"name": "its name", "arguments": {{its arguments as JSON}}}}
{CLOSE}"""
# Blanks as json.dumps writes them and nowhere else: a small model would go on with blanks for ever. The last two make
# the grammar refuse what it does not support; what a schema says itself about this form does not count.
JSON_FORM: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}


def describe(tool: Tool) -> dict[str, Any]:
    """Hugging Face's form, which is OpenAI's."""
    parameters = json.loads(tool.parameters)
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def describe_message(message: Message) -> dict[str, Any]:
    """Hugging Face's form: arguments as an object."""
    described: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        described["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        described["tool_call_id"] = message.tool_call_id
    return described


def write_out(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation for a template that knows nothing of tools: only text and the three common roles."""
    written: list[Message] = []
    before = None
    for message in messages:
        if message.role == "tool":
            result = f"<tool_response>\n{message.content}\n</tool_response>"
            if before == "tool":  # Templates want the roles to alternate.
                result = f"{written.pop().content}\n{result}"
            written.append(Message("user", result))
        else:
            calls = [
                f'{OPEN}\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n{CLOSE}'
                for call in message.tool_calls
            ]
            written.append(Message(message.role, "\n".join([message.content, *calls] if message.content else calls)))
        before = message.role
    if tools:
        listed = SYSTEM % "\n".join(json.dumps(describe(tool), ensure_ascii=False) for tool in tools)
        if written and written[0].role == "system":
            listed = f"{written.pop(0).content}\n\n{listed}"
        written.insert(0, Message("system", listed))
    return written


def call_grammar(tools: Sequence[Tool], choice: Literal["auto", "required"], parallel: bool) -> str:
    """Lark: one call, several if `parallel`, of tools by name, with arguments that fit; with "auto" or free text.

    Raises InvalidRequest naming the tool whose parameters are no object's.
    """
    rules = [f"body: {' | '.join(f'tool_{place}' for place in range(len(tools)))}"]
    for place, tool in enumerate(tools):
        schema = {"type": "object", **json.loads(tool.parameters), "x-guidance": JSON_FORM}
        if schema["type"] != "object":
            raise InvalidRequest("a tool's parameters are an object", f"tools[{place}].parameters")
        head = json.dumps(f'\n{{"name": "{tool.name}", "arguments": ')
        rules.append(f"tool_{place}: {head} %json {json.dumps(schema)} {json.dumps('}' + chr(10) + CLOSE)}")
    more = f" ({json.dumps(chr(10) + OPEN)} body)*" if parallel else ""
    if choice == "required":
        rules.append(f"start: {json.dumps(OPEN)} body{more}")
    else:
        # The opening tag is a lazy lexeme: where it is complete, the text before it is over.
        rules += [f"start: TEXT | open body{more}", f"open[lazy]: TEXT {json.dumps(OPEN)}", r"TEXT: /(.|\n)*/"]
    return "%llguidance {}\n" + "\n".join(rules)


class Calls(Answer):
    """An answer in which calls may come: text before them is free as ever, a call comes out when it is whole."""

    def __init__(self, characters: Characters, stops: Sequence[str], new_id: Callable[[], str]) -> None:
        super().__init__(characters, (*stops, OPEN))
        self._new_id = new_id
        self._calling = False
        self._body = ""
        self._tokens = 0  # Of the call under way.
        self._called = False

    @property
    def reason(self) -> Literal["stop", "tool_calls"]:
        return "tool_calls" if self._called else "stop"

    def push(self, drawn: Drawn) -> tuple[Delta | Called | None, bool]:
        if not self._calling:
            delta, stopped = super().push(drawn)
            if not stopped or self.cut != OPEN:
                return delta, stopped
            self._calling = True
            self._body, self._tokens = self.behind, self.unshown
            return delta, False
        self._tokens += 1
        text = self._characters.push(drawn.token)
        self._body += text
        return (self._take() if ">" in text else None), False

    def flush(self) -> Delta | None:
        """A call that was cut short is no call, and no text either."""
        return None if self._calling else super().flush()

    def _take(self) -> Called | None:
        """The first whole call in what has come. A closing tag inside an argument does not end it."""
        place = self._body.find(CLOSE)
        while place >= 0:
            if (found := BODY.fullmatch(self._body[:place])) and _is_json(found[1]):
                self._body = self._body[place + len(CLOSE) :]
                call = Called(ToolCall(self._new_id(), found[2], found[3]), self._tokens)
                self._tokens, self._called = 0, True
                return call
            place = self._body.find(CLOSE, place + 1)
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
