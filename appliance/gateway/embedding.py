"""One embedding call from the meter to the answer."""

import asyncio
import base64

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appliance.box import Box
from appliance.engine.protocol import EmbedRequest, EmbedResult, InvalidRequest, ModelInfo
from appliance.gateway import charges
from appliance.gateway.schemas import EmbeddingRequest
from appliance.gateway.whole import bill
from appliance.meter import Units
from appliance.store.keys import Key
from appliance.text.points import count_points
from sync.record import Meter, Unit


async def embed(box: Box, key: Key, request: Request, asked: EmbeddingRequest, model: ModelInfo) -> Response:
    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: sum(count_points(text) for text in asked.texts)}
    work = _embedded(box, asked, units)
    result, charge = await bill(box, key, request, meter=Meter.EMBEDDING, model=model.digest, most=units, work=work)
    # In a thread: writing out thousands of numbers takes long enough to hold up other callers' streams.
    return await asyncio.to_thread(_answer, asked, result, charges.headers(charge))


async def _embedded(box: Box, asked: EmbeddingRequest, units: Units) -> tuple[EmbedResult, Units]:
    try:
        result = await box.engine.embed(EmbedRequest(asked.model, asked.texts, asked.input_type))
    except InvalidRequest as error:
        if error.field is not None and error.field.startswith("texts"):  # The engine's name for what is `input` here.
            place = error.field.removeprefix("texts")
            error.field = "input" if isinstance(asked.input, str) else f"input{place}"
        raise
    return result, {**units, Unit.TOKENS_IN: sum(result.tokens)}


def _answer(asked: EmbeddingRequest, result: EmbedResult, headers: dict[str, str]) -> Response:
    vectors = np.ascontiguousarray(result.vectors, dtype="<f4")
    shown: list[object] = (
        [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
        if asked.encoding_format == "base64"
        else [vector.tolist() for vector in vectors]
    )
    tokens = sum(result.tokens)
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(shown)],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(answer, headers=headers)
