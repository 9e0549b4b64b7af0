"""Reads a request's body within a size and a time, and checks it against a schema."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import ClientDisconnect, Request

from sync.node.errors import Refusal

JSON_BYTES_MAX = 16 * 1024
STALL_S_MAX = 15
BYTES_PER_S_MIN = 2000  # so that a line of 20 kbit/s works, and a full segment takes at most 150 s

_Form = TypeVar("_Form", bound="Form")


class Form(BaseModel):
    """A JSON body: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


async def read_body(request: Request, most: int) -> bytes:
    """Raises Refusal 413 beyond `most` bytes, 408 when it falls STALL_S_MAX behind BYTES_PER_S_MIN."""
    body = bytearray()
    start = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(start + STALL_S_MAX) as limit:
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal(413, "too_large", f"the body may have {most} bytes")
                limit.reschedule(start + STALL_S_MAX + len(body) / BYTES_PER_S_MIN)
    except TimeoutError:
        raise Refusal(408, "too_slow", f"the body came slower than {BYTES_PER_S_MIN} bytes a second") from None
    except ClientDisconnect:
        raise Refusal(400, "cut_short", "the body ended before its length") from None
    return bytes(body)


def parse(form: type[_Form], body: bytes) -> _Form:
    """Raises Refusal 400 for what is no JSON, 422 naming the field."""
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, "malformed", f"the body is not JSON: {first['msg']}") from None
        field = ".".join(map(str, first["loc"])) or "body"
        raise Refusal(422, "bad_field", f"{field}: {first['msg']}") from None
