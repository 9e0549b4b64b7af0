"""Tasks beyond the OpenAI dialect: search in a shop's questions and answers, and the collections it searches in."""

import re
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appliance.box import Box
from appliance.gateway import charges
from appliance.gateway.access import TheBox, TheKey
from appliance.gateway.errors import BadRequest
from appliance.gateway.schemas import Name, Strict, documented, read
from appliance.gateway.whole import bill
from appliance.meter import Units
from appliance.store.collections import ENTRIES_MAX, Entry, Summary
from appliance.store.keys import Key
from appliance.tasks.search import Found, Hit, Indexed, Indexing
from appliance.tasks.upload import UploadedEntry, checked, read_csv
from appliance.text.marks import Marked
from appliance.text.points import count_points
from sync.record import Meter, Unit

router = APIRouter(prefix="/v1", tags=["tasks"])

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
Entries = Annotated[list[UploadedEntry], Field(min_length=1, max_length=ENTRIES_MAX)]


class NewCollection(Strict):
    """`model` makes the vectors; left out, the collection keeps its own, and a new one gets the box's first."""

    model: Name | None = None
    entries: Entries


class MoreEntries(Strict):
    entries: Entries


class SearchRequest(Strict):
    collection: Annotated[str, Field(pattern=NAME)]
    query: Annotated[str, Field(min_length=1, max_length=2000), Marked]
    limit: Annotated[int, Field(ge=1, le=50)] = 5


@router.post("/tasks/search", openapi_extra=documented(SearchRequest))
async def search(request: Request, box: TheBox, key: TheKey) -> Response:
    """The entries that fit a question best, in whatever language either is written; best first."""
    asked = await read(request, SearchRequest)
    if not asked.query.strip():
        raise BadRequest("query: only spaces", "query")
    model = await box.search.model((await box.search.get(asked.collection)).model)
    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: count_points(asked.query)}

    async def work() -> tuple[Found, Units]:
        found = await box.search.find(asked.collection, asked.query, asked.limit)
        return found, {**units, Unit.TOKENS_IN: found.tokens}

    found, charge = await bill(box, key, request, meter=Meter.SEARCH, model=model.digest, most=units, work=work())
    shown = {"collection": asked.collection, "model": model.name, "results": [_hit(hit) for hit in found.hits]}
    return JSONResponse(shown, headers=charges.headers(charge))


@router.get("/collections")
async def list_collections(box: TheBox, _: TheKey) -> dict[str, Any]:
    """The collections of this box: every key may read, change and search each of them."""
    return {"collections": [_collection(summary) for summary in await box.search.all()]}


@router.get("/collections/{name}")
async def get_collection(name: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    return _collection(await box.search.get(name))


@router.put("/collections/{name}", openapi_extra=documented(NewCollection))
async def put_collection(name: str, request: Request, box: TheBox, key: TheKey) -> Response:
    """Make the collection, or replace all its entries. As JSON, or as CSV with `Content-Type: text/csv`."""
    if not re.fullmatch(NAME, name):
        raise BadRequest("a collection's name has small letters, digits and - only, at most 64", "name")
    asked = None if _is_csv(request) else await read(request, NewCollection)
    entries = checked(asked.entries) if asked else read_csv(await request.body())
    async with box.search.changing():
        model = await box.search.model((asked and asked.model) or await box.search.model_of(name))
        return await _index(box, key, request, await box.search.prepare(name, entries, model, replace=True))


@router.delete("/collections/{name}", status_code=204)
async def delete_collection(name: str, box: TheBox, _: TheKey) -> None:
    async with box.search.changing():
        await box.search.delete(name)


@router.get("/collections/{name}/entries")
async def list_entries(name: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    summary, stored = await box.search.load(name)
    return {"name": summary.name, "entries": [_entry(each.entry) for each in stored]}


@router.post("/collections/{name}/entries", openapi_extra=documented(MoreEntries))
async def put_entries(name: str, request: Request, box: TheBox, key: TheKey) -> Response:
    """Add entries, or replace those of the same id. As JSON, or as CSV with `Content-Type: text/csv`."""
    csv = _is_csv(request)
    entries = read_csv(await request.body()) if csv else checked((await read(request, MoreEntries)).entries)
    async with box.search.changing():
        model = await box.search.model((await box.search.get(name)).model)
        return await _index(box, key, request, await box.search.prepare(name, entries, model, replace=False))


@router.delete("/collections/{name}/entries/{entry_id}")
async def delete_entry(name: str, entry_id: str, box: TheBox, _: TheKey) -> dict[str, Any]:
    async with box.search.changing():
        return _collection(await box.search.remove(name, entry_id))


async def _index(box: Box, key: Key, request: Request, work: Indexing) -> Response:
    """Billed as embedding, by the entries that are new to the model; where none is, there is nothing to bill.

    Kept, then recorded, and taken back when it is not recorded: a failed upload is free, and what is kept was billed.
    A box or a disk that dies between the two steps errs in the caller's favour: kept, and never billed.
    """
    if not work.fresh:
        return JSONResponse(_collection(await box.search.keep(work, Indexed(work.stored, 0))))
    units = {Unit.REQUESTS: 1, Unit.POINTS_IN: work.points}

    async def index() -> tuple[Summary, Units]:
        done = await box.search.index(work)
        return await box.search.keep(work, done), {**units, Unit.TOKENS_IN: done.tokens}

    try:
        kept, charge = await bill(
            box, key, request, meter=Meter.EMBEDDING, model=work.model.digest, most=units, work=index()
        )
    except Exception:  # Whatever it was, nothing is billed, so nothing may be kept; the caller is told of it as ever.
        await box.search.undo(work)
        raise
    return JSONResponse(_collection(kept), headers=charges.headers(charge))


def _is_csv(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/csv"


def _collection(summary: Summary) -> dict[str, Any]:
    return {"name": summary.name, "model": summary.model, "entries": summary.entries, "revision": summary.revision}


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "question": entry.question,
        "answer": entry.answer,
        "tags": entry.tags,
        "language": entry.language,
    }


def _hit(hit: Hit) -> dict[str, Any]:
    shown = {"score": hit.score, "meaning": hit.meaning, "terms": hit.terms}
    return {**_entry(hit.entry), **{name: round(value, 6) for name, value in shown.items()}}
