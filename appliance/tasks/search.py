"""Search in a shop's questions and answers: what a question means (vectors) and the words it uses (terms).

An entry has two vectors, one of its question and one of question and answer together. Terms go through the glossary, so
that they meet across languages, which is how most customers and entries meet; what the glossary does not know (a model,
an address, a size) is met as it stands.

The weights were chosen on two shops (tests/golden/kirana.json, textiles.json; entries and questions in six languages,
most pairs across two of them) with multilingual-e5-small as published: vectors alone put the right entry first for
33 and 29 of 50, terms alone for 47 and 43, their sum for 49 and 45. The glossary has the hand of their writer: on 135
intents of other writers, who ask in a more roundabout way, vectors alone come to 35 % and the sum to 47 %.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.engine.protocol import EmbedRequest, Engine, InvalidRequest, ModelInfo, UnknownModel
from appliance.store.collections import Collections, Entry, Stored, Summary, Vectors
from appliance.tasks.glossary import Glossary
from appliance.tasks.terms import TermIndex
from appliance.text.normalise import normalise
from appliance.text.points import count_points

NEEDED, TUNED = "embedding", "search"  # tasks: what a model must do, and what the best one was made for
BATCH_TEXTS = 32  # texts sent to the engine at once, so that others get their turn
TERM_WEIGHT = 0.015  # of one unit of BM25 against cosines, which lie between about 0.7 and 1 for this family of models
INDEXES_MAX = 16  # collections kept ready in memory


class EntryTooLong(Exception):
    """The model cannot take in the whole of an entry. `entry_id` names it."""

    def __init__(self, message: str, entry_id: str) -> None:
        super().__init__(message)
        self.entry_id = entry_id


@dataclass(frozen=True)
class Indexing:
    """Work to be done before entries can be searched: those in `fresh` are new to `model`."""

    model: ModelInfo
    stored: tuple[Stored, ...]
    fresh: tuple[Entry, ...]

    @property
    def points(self) -> int:
        """Code points of the question and the answer of every fresh entry: what indexing is billed by."""
        return sum(count_points(entry.question) + count_points(entry.answer) for entry in self.fresh)


@dataclass(frozen=True)
class Indexed:
    stored: tuple[Stored, ...]
    tokens: int


@dataclass(frozen=True)
class Hit:
    """`score` = `meaning` (mean cosine) + TERM_WEIGHT * `terms` (BM25); comparable within one answer only."""

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
    views: NDArray[np.float32]  # [entries, views, dim]
    terms: TermIndex


class Search:
    """Lives in the event loop's thread; the store's disk work is done in others."""

    def __init__(self, engine: Engine, collections: Collections, glossary: Glossary) -> None:
        self._engine = engine
        self._collections = collections
        self._glossary = glossary
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        self._renewing = asyncio.Lock()

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

    async def load(self, name: str) -> tuple[Summary, tuple[Stored, ...]]:
        """Raises UnknownCollection."""
        return await asyncio.to_thread(self._collections.load, name)

    async def prepare(self, name: str, entries: Sequence[Entry], model: ModelInfo, *, replace: bool) -> Indexing:
        """What is left to do for these entries of the collection; vectors of unchanged ones are used again.

        Raises CollectionFull when there is no room for them, before anything is embedded and billed.
        """
        before = await asyncio.to_thread(self._collections.find_room, name, [entry.id for entry in entries], replace)
        known = {_texts(entry): vectors for entry, vectors in _pairs(before) if vectors.digest == model.digest}
        stored = tuple(Stored(entry, known.get(_texts(entry))) for entry in entries)
        return Indexing(model, stored, tuple(each.entry for each in stored if each.vectors is None))

    async def index(self, work: Indexing) -> Indexed:
        """Make the missing vectors. Raises EntryTooLong and what the engine raises; stores nothing."""
        made, tokens = await self._embed(work.fresh, work.model)
        vectors = dict(zip((entry.id for entry in work.fresh), made, strict=True))
        stored = (Stored(each.entry, each.vectors or vectors[each.entry.id]) for each in work.stored)
        return Indexed(tuple(stored), tokens)

    async def replace(self, name: str, model: ModelInfo, done: Indexed) -> Summary:
        """Raises CollectionFull."""
        return await asyncio.to_thread(self._collections.replace, name, model.name, done.stored)

    async def put(self, name: str, done: Indexed) -> Summary:
        """Raises UnknownCollection, CollectionFull."""
        return await asyncio.to_thread(self._collections.put, name, done.stored)

    async def remove(self, name: str, entry_id: str) -> Summary:
        """Raises UnknownCollection, UnknownEntry."""
        return await asyncio.to_thread(self._collections.remove, name, entry_id)

    async def delete(self, name: str) -> None:
        """Raises UnknownCollection."""
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
        meaning = (index.views @ vector).mean(axis=1)
        terms = index.terms.scores(self._glossary.terms(query))
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
        if index is None or (index.revision, index.digest) != (summary.revision, model.digest):
            index = await self._build(summary.name, model)
            self._indexes[summary.name] = index
            while len(self._indexes) > INDEXES_MAX:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(summary.name)
        return index

    async def _build(self, name: str, model: ModelInfo) -> _Index:
        """Renewing vectors after a change of the model is the box's own upkeep: nobody is billed for it."""
        async with self._renewing:
            summary, stored = await self.load(name)
            old = [each for each in stored if each.vectors is None or each.vectors.digest != model.digest]
            if old:
                made, _ = await self._embed([each.entry for each in old], model)
                new = {each.entry.id: Stored(each.entry, vectors) for each, vectors in zip(old, made, strict=True)}
                await asyncio.to_thread(self._collections.keep, name, summary.revision, new.values())
                stored = tuple(new.get(each.entry.id, each) for each in stored)
        return await asyncio.to_thread(self._assemble, summary.revision, model.digest, stored)

    def _assemble(self, revision: int, digest: bytes, stored: Sequence[Stored]) -> _Index:
        entries = tuple(each.entry for each in stored)
        terms = TermIndex([self._glossary.terms(_words(entry)) for entry in entries])
        return _Index(revision, digest, entries, _stacked(stored), terms)

    async def _embed(self, entries: Sequence[Entry], model: ModelInfo) -> tuple[list[Vectors], int]:
        """Two views of each entry: its question, and its question with the answer."""
        texts = await asyncio.to_thread(_views, entries)
        parts, tokens = [], 0
        for start in range(0, len(texts), BATCH_TEXTS):
            batch = tuple(texts[start : start + BATCH_TEXTS])
            try:
                result = await self._engine.embed(EmbedRequest(model.name, batch, "passage"))
            except InvalidRequest as error:
                raise _named(error, entries, start) from error
            parts.append(result.vectors)
            tokens += sum(result.tokens)
        if not parts:
            return [], 0
        views = np.concatenate(parts).reshape(len(entries), 2, -1)
        return [Vectors(model.digest, each) for each in views], tokens


def _views(entries: Sequence[Entry]) -> list[str]:
    """What the model is shown of the entries: two texts of each, in one spelling whatever keyboard wrote them."""
    shown = ((entry, text) for entry in entries for text in (entry.question, f"{entry.question} {entry.answer}"))
    return [normalise(text, entry.language).text for entry, text in shown]


def _texts(entry: Entry) -> tuple[str, str]:
    return entry.question, entry.answer


def _words(entry: Entry) -> str:
    return "\n".join((entry.question, entry.answer, *entry.tags))


def _pairs(stored: Iterable[Stored]) -> Iterator[tuple[Entry, Vectors]]:
    for each in stored:
        if each.vectors is not None:
            yield each.entry, each.vectors


def _stacked(stored: Sequence[Stored]) -> NDArray[np.float32]:
    if not stored:
        return np.zeros((0, 2, 1), np.float32)
    return np.stack([vectors.views for _, vectors in _pairs(stored)])


def _named(error: InvalidRequest, entries: Sequence[Entry], start: int) -> Exception:
    """The engine counts texts of a batch; a shop knows its entries by their ids."""
    place = (error.field or "").removeprefix("texts[").removesuffix("]")
    if not place.isdigit():
        return error
    entry = entries[(start + int(place)) // 2]
    return EntryTooLong(f"entry {entry.id}: {error}; shorten the answer or make two entries of it", entry.id)
