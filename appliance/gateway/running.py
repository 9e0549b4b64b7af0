"""Billable calls that are being worked on: found by their request id, so that they can be cancelled or waited for."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from appliance.gateway.errors import Conflict, TooManyCalls


@dataclass(frozen=True)
class Call:
    """`stop` is set when the call should end, for whatever reason."""

    key_id: int
    request_id: UUID
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class Running:
    """`per_key` bounds the billable calls of a key, `places_per_key` its requests of any kind."""

    def __init__(self, per_key: int, places_per_key: int) -> None:
        self._per_key = per_key
        self._places_per_key = places_per_key
        self._places: Counter[int] = Counter()
        self._calls: dict[UUID, Call] = {}

    @contextmanager
    def hold_place(self, key_id: int) -> Iterator[None]:
        """From before a body is read, so that slow bodies of one key leave room for others. Raises TooManyCalls."""
        if self._places[key_id] >= self._places_per_key:
            raise TooManyCalls(f"this key has {self._places_per_key} requests open: wait for one of them to end")
        self._places[key_id] += 1
        try:
            yield
        finally:
            self._places[key_id] -= 1
            if not self._places[key_id]:
                del self._places[key_id]

    @contextmanager
    def enter(self, key_id: int, request_id: UUID) -> Iterator[Call]:
        """Raises Conflict when a call of this id is running, TooManyCalls when the key has enough of them."""
        if request_id in self._calls:
            raise Conflict("a call with this X-Request-Id is running: use a fresh UUID for each call", "X-Request-Id")
        if sum(call.key_id == key_id for call in self._calls.values()) >= self._per_key:
            raise TooManyCalls(f"this key has {self._per_key} calls running: wait for one of them to end")
        call = self._calls[request_id] = Call(key_id, request_id)
        try:
            yield call
        finally:
            del self._calls[request_id]

    def find(self, key_id: int, request_id: UUID) -> Call | None:
        call = self._calls.get(request_id)
        return call if call is not None and call.key_id == key_id else None

    def __len__(self) -> int:
        return len(self._calls)

    def stop_all(self) -> None:
        for call in self._calls.values():
            call.stop.set()
