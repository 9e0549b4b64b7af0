"""Search in a shop's questions and answers: what a question means (a vector) and the very words it uses (terms).

An entry has one vector, of its question, answer and tags together. Meaning decides; terms only tell apart what means
the same: a model, a size, an address, a phone number.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import EmbedRequest, Engine, InvalidRequest, ModelInfo, Overloaded, UnknownModel
from appliance.store.collections import Collections, Entry, Held, Stored, Summary, Vector
from appliance.tasks.terms import TermIndex
from appliance.text.normalise import normalise
from appliance.text.points import count_points
from appliance.text.tokenise import tokenise

NEEDED, TUNED = "embedding", "search"  # tasks: what a model must do, and what the best one was made for
BATCH_TEXTS = 32  # texts sent to the engine at once, so that others get their turn
TERM_WEIGHT = 0.005  # of one unit of BM25 against cosines: more of it puts common words above meaning
INDEXES_MAX = 16  # collections kept ready in memory
CHANGES_MAX = 16  # changes of collections under way: one is made, the others wait for their turn


class EntryTooLong(Exception):
    """The model cannot take in the whole of an entry. `entry_id` names it."""

    def __init__(self, message: str, entry_id: str) -> None:
        super().__init__(message)
        self.entry_id = entry_id


@dataclass(frozen=True)
class Indexing:
    """Work to be done before entries can be searched: those in `fresh` are new to `model`.

    They join what the collection held `before` (None: there was none), or replace it.
    """

    name: str
    model: ModelInfo
    stored: tuple[Stored, ...]
    fresh: tuple[Entry, ...]
    replace: bool
    before: Held | None

    @property
    def points(self) -> int:
        """Code points of question, answer and tags of every fresh entry: what indexing is billed by."""
        texts = (text for entry in self.fresh for text in (entry.question, entry.answer, *entry.tags))
        return sum(map(count_points, texts))


@dataclass(frozen=True)
class Indexed:
    stored: tuple[Stored, ...]
    tokens: int


@dataclass(frozen=True)
class Hit:
    """`score` = `meaning` (cosine) + TERM_WEIGHT * `terms` (BM25); comparable within one answer only."""

    entry: Entry
    score: float
    meaning: float
    terms: float


@dataclass(frozen=True)
class Found:
    """Best first. `tokens` are those of the question."""

    hits: tuple[Hit, ...]
    tokens: int


@dataclass(frozen=True)
class _Index:
    revision: int
    digest: bytes
    entries: tuple[Entry, ...]
    vectors: NDArray[np.float32]  # [entries, dim]
    terms: TermIndex


_Version = tuple[str, int, bytes]  # of a collection as a model sees it: name, revision, the model's digest


class Search:
    """Lives in the event loop's thread; the store's disk work is done in others."""

    def __init__(self, engine: Engine, collections: Collections) -> None:
        self._engine = engine
        self._collections = collections
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        self._builds: dict[_Version, asyncio.Task[_Index]] = {}
        self._turn = asyncio.Lock()
        self._changes = 0

    async def close(self) -> None:
        """End what is being built, before the engine and the collections go."""
        building = list(self._builds.values())
        for task in building:
            task.cancel()
        await asyncio.gather(*building, return_exceptions=True)

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[None]:
        """Whoever changes collections is alone inside: what was found to fit still fits when it is kept.

        Raises Overloaded when enough others wait.
        """
        if self._changes >= CHANGES_MAX:
            raise Overloaded(f"{CHANGES_MAX} changes of collections are under way: try again in a moment")
        self._changes += 1
        try:
            async with self._turn:
                yield
        finally:
            self._changes -= 1

    async def model(self, name: str | None) -> ModelInfo:
        """The active model of this name that makes vectors; if None, the first that was tuned for search, or the first.

        Raises UnknownModel.
        """
        fit = [model for model in await self._engine.models() if NEEDED in model.tasks]
        for model in sorted(fit, key=lambda model: TUNED not in model.tasks):
            if name in (None, model.name):
                return model
        there = ", ".join(model.name for model in fit) or "none"
        raise UnknownModel(f"no active model for {NEEDED} has this name; active: {there}", "model")

    async def all(self) -> tuple[Summary, ...]:
        return await asyncio.to_thread(self._collections.all)

    async def get(self, name: str) -> Summary:
        """Raises UnknownCollection."""
        return await asyncio.to_thread(self._collections.get, name)

    async def model_of(self, name: str) -> str | None:
        """The model of the collection; None if there is no such collection yet."""
        return next((summary.model for summary in await self.all() if summary.name == name), None)

    async def load(self, name: str) -> Held:
        """Raises UnknownCollection."""
        return await asyncio.to_thread(self._collections.load, name)

    async def prepare(self, name: str, entries: Sequence[Entry], model: ModelInfo, *, replace: bool) -> Indexing:
        """What is left to do for these entries of the collection; vectors of unchanged ones are used again.

        It is true until `changing()` is left. Raises CollectionFull when there is no room for them, before anything is
        embedded and billed.
        """
        before = await asyncio.to_thread(self._collections.find_room, name, [entry.id for entry in entries], replace)
        held = before[1] if before else ()
        known = {_seen(entry): vector for entry, vector in _pairs(held) if vector.digest == model.digest}
        stored = tuple(Stored(entry, known.get(_seen(entry))) for entry in entries)
        fresh = tuple(each.entry for each in stored if each.vector is None)
        return Indexing(name, model, stored, fresh, replace, before)

    async def index(self, work: Indexing) -> Indexed:
        """Make the missing vectors. Raises EntryTooLong and what the engine raises; stores nothing."""
        made, tokens = await self._embed(work.fresh, work.model)
        vectors = dict(zip((entry.id for entry in work.fresh), made, strict=True))
        stored = (Stored(each.entry, each.vector or vectors[each.entry.id]) for each in work.stored)
        return Indexed(tuple(stored), tokens)

    async def keep(self, work: Indexing, done: Indexed) -> Summary:
        """Store what was indexed, inside the `changing()` in which it was prepared.

        A cancelled call ends only when the store has, so that `undo` sees what became of it.
        """

        def store() -> Summary:
            if work.replace:
                return self._collections.replace(work.name, work.model.name, done.stored)
            return self._collections.put(work.name, done.stored)

        storing = asyncio.create_task(asyncio.to_thread(store))
        try:
            return await asyncio.shield(storing)
        finally:
            await asyncio.gather(storing, return_exceptions=True)

    async def undo(self, work: Indexing) -> None:
        """If the work was kept, put back what the collection held before; inside the same `changing()`."""
        revision = next((summary.revision for summary in await self.all() if summary.name == work.name), None)
        if work.before is None:
            if revision is not None:
                await self.delete(work.name)
        elif revision != work.before[0].revision:
            summary, stored = work.before
            await asyncio.to_thread(self._collections.replace, work.name, summary.model, stored)

    async def remove(self, name: str, entry_id: str) -> Summary:
        """Inside `changing()`. Raises UnknownCollection, UnknownEntry."""
        return await asyncio.to_thread(self._collections.remove, name, entry_id)

    async def delete(self, name: str) -> None:
        """Inside `changing()`. Raises UnknownCollection."""
        await asyncio.to_thread(self._collections.delete, name)
        self._indexes.pop(name, None)

    async def find(self, name: str, query: str, limit: int) -> Found:
        """Raises UnknownCollection, and what the engine raises with `query` as the field."""
        summary = await self.get(name)
        model = await self.model(summary.model)
        index = await self._ready(summary, model)
        vector, tokens = await self._query(query, model)
        if not index.entries:
            return Found((), tokens)
        meaning = index.vectors @ vector
        terms = index.terms.scores(_terms(query))
        scores = meaning + TERM_WEIGHT * terms
        best = np.argsort(-scores, kind="stable")[:limit]  # Equal scores keep the shop's order.
        hits = (Hit(index.entries[i], float(scores[i]), float(meaning[i]), float(terms[i])) for i in best)
        return Found(tuple(hits), tokens)

    async def _query(self, query: str, model: ModelInfo) -> tuple[NDArray[np.float32], int]:
        try:
            result = await self._engine.embed(EmbedRequest(model.name, (normalise(query).text,), "query"))
        except InvalidRequest as error:
            error.field = "query"
            raise
        return result.vectors[0], result.tokens[0]

    async def _ready(self, summary: Summary, model: ModelInfo) -> _Index:
        index = self._indexes.get(summary.name)
        if index is not None and (index.revision, index.digest) == (summary.revision, model.digest):
            self._indexes.move_to_end(summary.name)
            return index
        version = (summary.name, summary.revision, model.digest)
        building = self._builds.get(version)
        if building is None:
            building = self._builds[version] = asyncio.create_task(self._build(summary.name, model))
            building.add_done_callback(lambda done: self._built(version, done))
        return await asyncio.shield(building)  # A caller who leaves does not end what others will need.

    def _built(self, version: _Version, done: asyncio.Task[_Index]) -> None:
        del self._builds[version]
        if not done.cancelled():
            done.exception()  # Who waited for it was told; it is not to be told again when nobody waited.

    async def _build(self, name: str, model: ModelInfo) -> _Index:
        """Renewing vectors after a change of the model is the box's own upkeep: nobody is billed for it."""
        summary, stored = await self.load(name)
        ready = list(stored)
        old = [place for place, each in enumerate(stored) if each.vector is None or each.vector.digest != model.digest]
        for start in range(0, len(old), BATCH_TEXTS):
            places = old[start : start + BATCH_TEXTS]
            made, _ = await self._embed([stored[place].entry for place in places], model)
            for place, vector in zip(places, made, strict=True):
                ready[place] = Stored(stored[place].entry, vector)
            # Kept batch by batch, so that an end of the box does not begin a big collection from its start again.
            renewed = [ready[place] for place in places]
            await asyncio.to_thread(self._collections.keep, name, summary.revision, renewed)
        index = await asyncio.to_thread(_assemble, summary.revision, model.digest, ready)
        self._indexes[name] = index
        while len(self._indexes) > INDEXES_MAX:
            self._indexes.popitem(last=False)
        return index

    async def _embed(self, entries: Sequence[Entry], model: ModelInfo) -> tuple[list[Vector], int]:
        texts = await asyncio.to_thread(lambda: [_shown(entry) for entry in entries])
        made: list[Vector] = []
        tokens = 0
        for start in range(0, len(texts), BATCH_TEXTS):
            batch = tuple(texts[start : start + BATCH_TEXTS])
            try:
                result = await self._engine.embed(EmbedRequest(model.name, batch, "passage"))
            except InvalidRequest as error:
                raise _named(error, entries, start) from error
            made += [Vector(model.digest, values) for values in result.vectors]
            tokens += sum(result.tokens)
        return made, tokens


def _assemble(revision: int, digest: bytes, stored: Sequence[Stored]) -> _Index:
    entries = tuple(each.entry for each in stored)
    vectors = [vector.values for _, vector in _pairs(stored)]
    terms = TermIndex([_terms("\n".join((entry.question, entry.answer, *entry.tags))) for entry in entries])
    return _Index(revision, digest, entries, np.stack(vectors) if vectors else np.zeros((0, 1), np.float32), terms)


def _shown(entry: Entry) -> str:
    """What the model is shown of an entry, in one spelling whatever keyboard wrote it."""
    return normalise(" ".join((entry.question, entry.answer, *entry.tags)), entry.language).text


def _terms(text: str) -> tuple[str, ...]:
    return tuple(token.word for token in tokenise(text))


def _seen(entry: Entry) -> tuple[object, ...]:
    """All of an entry that its vector depends on."""
    return entry.question, entry.answer, entry.tags, entry.language


def _pairs(stored: Iterable[Stored]) -> Iterator[tuple[Entry, Vector]]:
    for each in stored:
        if each.vector is not None:
            yield each.entry, each.vector


def _named(error: InvalidRequest, entries: Sequence[Entry], start: int) -> Exception:
    """The engine counts texts of a batch; a shop knows its entries by their ids."""
    place = (error.field or "").removeprefix("texts[").removesuffix("]")
    if not place.isdigit():
        return error
    entry = entries[start + int(place)]
    return EntryTooLong(f"entry {entry.id}: {error}; shorten the answer or make two entries of it", entry.id)
