"""How answers look on the wire: OpenAI's chat and completion objects, whole and in pieces."""

import json
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from uuid import UUID

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int

    def shown(self) -> Json:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


class Dialect(Protocol):
    """Each method gives one complete object; `reason` is "stop" or "length"."""

    def opening(self) -> Json | None: ...

    def piece(self, text: str) -> Json: ...

    def closing(self, reason: str) -> Json: ...

    def usage(self, usage: Usage) -> Json: ...

    def whole(self, text: str, reason: str, usage: Usage) -> Json: ...


@dataclass(frozen=True)
class ChatDialect:
    request_id: UUID
    created: int
    model: str

    def opening(self) -> Json:
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> Json:
        return self._chunk({"content": text}, None)

    def closing(self, reason: str) -> Json:
        return self._chunk({}, reason)

    def usage(self, usage: Usage) -> Json:
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage.shown()}

    def whole(self, text: str, reason: str, usage: Usage) -> Json:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": None,
            "finish_reason": reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage.shown()}

    def _chunk(self, delta: Json, reason: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> Json:
        return {"id": f"chatcmpl-{self.request_id}", "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True)
class CompletionDialect:
    request_id: UUID
    created: int
    model: str

    def opening(self) -> None:
        return None

    def piece(self, text: str) -> Json:
        return self._object([self._choice(text, None)])

    def closing(self, reason: str) -> Json:
        return self._object([self._choice("", reason)])

    def usage(self, usage: Usage) -> Json:
        return {**self._object([]), "usage": usage.shown()}

    def whole(self, text: str, reason: str, usage: Usage) -> Json:
        return {**self._object([self._choice(text, reason)]), "usage": usage.shown()}

    def _choice(self, text: str, reason: str | None) -> Json:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    def _object(self, choices: list[Json]) -> Json:
        kind: Literal["text_completion"] = "text_completion"
        return {
            "id": f"cmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def event(value: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
