"""The OpenAI dialect: models, embeddings, chat and plain completions."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from appliance.box import Box
from appliance.engine.protocol import GenerateRequest, Message, ModelInfo, Sampling, UnknownModel
from appliance.gateway.access import TheBox, TheKey
from appliance.gateway.dialects import ChatDialect, CompletionDialect
from appliance.gateway.embedding import embed
from appliance.gateway.generation import Job, Stream, answer_whole
from appliance.gateway.schemas import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationRequest,
    documented,
    read,
)
from appliance.store.keys import Key
from appliance.text.points import count_points
from sync.record import Meter

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models")
async def list_models(box: TheBox, _: TheKey) -> dict[str, Any]:
    """The active packages of this box."""
    return {"object": "list", "data": [_shown(model) for model in await box.engine.models()]}


@router.get("/models/{name}")
async def get_model(name: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    return _shown(await _find(box, name, None))


@router.post("/embeddings", openapi_extra=documented(EmbeddingRequest))
async def create_embeddings(request: Request, box: TheBox, key: TheKey) -> Response:
    """One unit-length vector per input."""
    asked = await read(request, EmbeddingRequest)
    return await embed(box, key, request, asked, await _find(box, asked.model, "embedding"))


@router.post("/chat/completions", openapi_extra=documented(ChatRequest))
async def create_chat_completion(request: Request, box: TheBox, key: TheKey) -> Response:
    asked = await read(request, ChatRequest)
    model = await _find(box, asked.model, "chat")
    wanted = GenerateRequest(
        model=asked.model,
        max_tokens=asked.limit,
        messages=tuple(Message(message.role, message.text) for message in asked.messages),
        sampling=_sampling(asked),
        stop=asked.stops,
    )
    points = sum(count_points(message.text) for message in asked.messages)
    dialect = ChatDialect(request.state.request_id, box.clock.wall_ms() // 1000, asked.model)
    return await _answer(box, key, request, asked, Job(wanted, model, Meter.CHAT, points, dialect, asked.wants_usage))


@router.post("/completions", openapi_extra=documented(CompletionRequest))
async def create_completion(request: Request, box: TheBox, key: TheKey) -> Response:
    asked = await read(request, CompletionRequest)
    model = await _find(box, asked.model, "completion")
    wanted = GenerateRequest(
        model=asked.model,
        max_tokens=asked.max_tokens,
        prompt=asked.prompt,
        sampling=_sampling(asked),
        stop=asked.stops,
    )
    dialect = CompletionDialect(request.state.request_id, box.clock.wall_ms() // 1000, asked.model)
    job = Job(wanted, model, Meter.COMPLETION, count_points(asked.prompt), dialect, asked.wants_usage)
    return await _answer(box, key, request, asked, job)


async def _answer(box: Box, key: Key, request: Request, asked: GenerationRequest, job: Job) -> Response:
    if asked.stream:
        return Stream(box, key.id, request, job)
    return await answer_whole(box, key.id, request, job)


def _sampling(asked: GenerationRequest) -> Sampling:
    """OpenAI's defaults stand where the caller says nothing."""
    plain = Sampling()
    return Sampling(
        temperature=plain.temperature if asked.temperature is None else asked.temperature,
        top_p=plain.top_p if asked.top_p is None else asked.top_p,
        seed=asked.seed,
    )


async def _find(box: Box, name: str, task: str | None) -> ModelInfo:
    """The active model of this name that does this task. Raises UnknownModel saying what is there."""
    models = await box.engine.models()
    fit = [model for model in models if task is None or task in model.tasks]
    for model in fit:
        if model.name == name:
            return model
    there = ", ".join(model.name for model in fit) or "none"
    what = f" for {task}" if task else ""
    raise UnknownModel(f"no active model{what} has this name; active: {there}", "model")


def _shown(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": 0,  # OpenAI's field; a package has a digest instead of a date.
        "owned_by": "nukkad",
        "nukkad": {
            "digest": model.digest.hex(),
            "tasks": model.tasks,
            "languages": model.languages,
            "context_tokens": model.context_tokens,
            "lane": model.lane,
            "provider": model.provider,
            "cpu_nodes": model.cpu_nodes,
        },
    }
