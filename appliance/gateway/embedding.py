"""One embedding call from the meter to the answer."""

import base64

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appliance.box import Box
from appliance.engine.protocol import EmbedRequest, EmbedResult, InvalidRequest, ModelInfo
from appliance.gateway import charges, errors
from appliance.gateway.caller import Caller, unless
from appliance.gateway.schemas import EmbeddingRequest
from appliance.text.points import count_points
from sync.record import Meter, Outcome, Unit


async def embed(box: Box, key_id: int, request: Request, asked: EmbeddingRequest, model: ModelInfo) -> Response:
    """A caller who leaves before the call is recorded pays nothing."""
    request_id = request.state.request_id
    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: sum(count_points(text) for text in asked.texts)}
    with (
        box.running.enter(key_id, request_id) as call,
        box.meter.reserve(key_id, Meter.EMBEDDING, model.digest, units, request_id) as reservation,
    ):
        async with Caller(request.receive, _mute, call.stop, box.settings.send_s).watched():
            result = await unless(call.stop, _embedded(box, asked))
            if result is None:
                raise errors.Cancelled("the call was cancelled; nothing was billed")
            charge = await reservation.commit({**units, Unit.TOKENS_IN: sum(result.tokens)}, Outcome.COMPLETED)
    box.metrics.charged(Meter.EMBEDDING, charge)
    return JSONResponse(_shown(asked, result), headers=charges.headers(charge))


async def _embedded(box: Box, asked: EmbeddingRequest) -> EmbedResult:
    try:
        return await box.engine.embed(EmbedRequest(asked.model, asked.texts, asked.input_type))
    except InvalidRequest as error:
        if error.field is not None and error.field.startswith("texts"):  # The engine's name for what is `input` here.
            place = error.field.removeprefix("texts")
            error.field = "input" if isinstance(asked.input, str) else f"input{place}"
        raise


def _shown(asked: EmbeddingRequest, result: EmbedResult) -> dict[str, object]:
    vectors = np.ascontiguousarray(result.vectors, dtype="<f4")
    shown: list[object] = (
        [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        if asked.encoding_format == "base64"
        else [vector.tolist() for vector in vectors]
    )
    tokens = sum(result.tokens)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(shown)],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _mute(_: object) -> None:
    """The answer is sent after the watch has ended."""
