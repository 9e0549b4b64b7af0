"""Tasks beyond the OpenAI dialect: search in a shop's questions and answers, and the collections it searches in."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appliance.box import Box
from appliance.engine.protocol import ModelInfo
from appliance.gateway import charges, errors
from appliance.gateway.access import TheBox, TheKey
from appliance.gateway.caller import Caller, unless
from appliance.gateway.schemas import Name, Strict, documented, read
from appliance.meter import Charged
from appliance.store.collections import ENTRIES_MAX, Entry, Summary
from appliance.tasks.search import Found, Indexed, Indexing
from appliance.tasks.upload import UploadedEntry, checked, read_csv
from appliance.text.points import count_points
from sync.record import Meter, Outcome, Unit

router = APIRouter(prefix="/v1", tags=["tasks"])

CollectionName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Entries = Annotated[list[UploadedEntry], Field(min_length=1, max_length=ENTRIES_MAX)]


class NewCollection(Strict):
    """`model` makes the vectors: the box's own choice if left out."""

    model: Name | None = None
    entries: Entries


class MoreEntries(Strict):
    entries: Entries


class SearchRequest(Strict):
    collection: CollectionName
    query: Annotated[str, Field(min_length=1, max_length=2000)]
    limit: Annotated[int, Field(ge=1, le=50)] = 5


@router.post("/tasks/search", openapi_extra=documented(SearchRequest))
async def search(request: Request, box: TheBox, key: TheKey) -> Response:
    """The entries that fit a question best, in whatever language either is written; best first."""
    asked = await read(request, SearchRequest)
    summary, _ = await box.search.load(asked.collection)
    model = await box.search.model(summary.model)
    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: count_points(asked.query)}

    async def work() -> tuple[Found, int]:
        found = await box.search.find(asked.collection, asked.query, asked.limit)
        return found, found.tokens

    found, charge = await _billed(box, request, key.id, Meter.SEARCH, model, units, work)
    return JSONResponse(_found(asked.collection, model, found), headers=charges.headers(charge))


@router.get("/collections")
async def list_collections(box: TheBox, _: TheKey) -> dict[str, Any]:
    """The collections of this box: every key may read, change and search each of them."""
    return {"collections": [_collection(summary) for summary in await box.search.all()]}


@router.get("/collections/{name}")
async def get_collection(name: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    summary, _stored = await box.search.load(name)
    return _collection(summary)


@router.put("/collections/{name}", openapi_extra=documented(NewCollection))
async def put_collection(name: CollectionName, request: Request, box: TheBox, key: TheKey) -> Response:
    """Make the collection, or replace all of its entries. JSON, or CSV with `Content-Type: text/csv`."""
    if _is_csv(request):
        wanted, entries = None, read_csv(await request.body())
    else:
        asked = await read(request, NewCollection)
        wanted, entries = asked.model, checked(asked.entries)
    model = await box.search.model(wanted)
    work = await box.search.prepare(name, entries, model)
    return await _indexed(box, request, key.id, work, lambda done: box.search.replace(name, model, done))


@router.delete("/collections/{name}", status_code=204)
async def delete_collection(name: str, box: TheBox, _: TheKey) -> None:
    await box.search.delete(name)


@router.get("/collections/{name}/entries")
async def list_entries(name: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    summary, stored = await box.search.load(name)
    return {**_collection(summary), "entries": [_entry(each.entry) for each in stored]}


@router.post("/collections/{name}/entries", openapi_extra=documented(MoreEntries))
async def put_entries(name: str, request: Request, box: TheBox, key: TheKey) -> Response:
    """Add entries, or replace those of the same id. JSON, or CSV with `Content-Type: text/csv`."""
    summary, _ = await box.search.load(name)
    if _is_csv(request):
        entries = read_csv(await request.body())
    else:
        entries = checked((await read(request, MoreEntries)).entries)
    work = await box.search.prepare(name, entries, await box.search.model(summary.model))
    return await _indexed(box, request, key.id, work, lambda done: box.search.put(name, done))


@router.delete("/collections/{name}/entries/{entry_id}")
async def delete_entry(name: str, entry_id: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    return _collection(await box.search.remove(name, entry_id))


async def _indexed(
    box: Box, request: Request, key_id: int, work: Indexing, keep: Callable[[Indexed], Awaitable[Summary]]
) -> Response:
    """Billed as embedding, by the entries that are new to the model; where none is, there is nothing to bill.

    Recorded before it is kept: a disk that takes no record takes no entries either, so nothing is served for free.
    """
    if not work.fresh:
        return JSONResponse(_collection(await keep(Indexed(work.stored, 0))))

    async def index() -> tuple[Indexed, int]:
        done = await box.search.index(work)
        return done, done.tokens

    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: work.points}
    done, charge = await _billed(box, request, key_id, Meter.EMBEDDING, work.model, units, index)
    return JSONResponse(_collection(await keep(done)), headers=charges.headers(charge))


async def _billed[T](
    box: Box,
    request: Request,
    key_id: int,
    meter: Meter,
    model: ModelInfo,
    units: dict[Unit, int],
    work: Callable[[], Awaitable[tuple[T, int]]],
) -> tuple[T, Charged]:
    raise NotImplementedError
