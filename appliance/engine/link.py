"""One child's socket as its parent sees it: many calls at once, each with its own queue of outcomes."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable

from appliance.engine.messages import (
    Beat,
    Cancel,
    FromChild,
    Loaded,
    Loading,
    Outcome,
    ToChild,
    dump,
    parse_from_child,
    to_outcome,
)
from appliance.engine.protocol import EmbedResult, EngineError, EngineUnavailable, Finished, Started
from appliance.engine.wire import HEADER_BYTES, decode_payload, encode_frame, payload_bytes

News = Beat | Loading | Loaded


class Call:
    """Outcomes of one call in order. `close` cancels it unless it has ended; closing twice is fine."""

    def __init__(self, link: "Link", number: int) -> None:
        self._link = link
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()  # Bounded by the model's context.
        self.number = number
        self.running = False
        self.ended = False

    def put(self, outcome: Outcome) -> None:
        self.running = self.running or isinstance(outcome, Started)
        self.ended = isinstance(outcome, Finished | EmbedResult | EngineError)
        self._outcomes.put_nowait(outcome)

    async def next(self) -> Outcome:
        """Raises the EngineError that ended the call, if one did."""
        outcome = await self._outcomes.get()
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome

    def close(self) -> None:
        self._link.forget(self)


class Link:
    """Created by `Link.open`; `news` is to be read until it ends, by one task."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._closed = False

    @classmethod
    async def open(cls, connection: socket.socket) -> "Link":
        return cls(*await asyncio.open_unix_connection(sock=connection))

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls.values())

    async def send(self, message: ToChild) -> None:
        """Raises FrameTooLarge before anything is sent, EngineUnavailable if the child is gone."""
        frame = encode_frame(dump(message))
        if self._closed:
            raise EngineUnavailable("the engine has stopped: try again in a moment")
        self._writer.write(frame)
        try:
            await self._writer.drain()
        except ConnectionError:
            raise EngineUnavailable("the engine died: the request was lost") from None

    async def call(self, message: Callable[[int], ToChild]) -> Call:
        """Send the message that opens a call; `message` is given the call's number."""
        call = Call(self, next(self._numbers))
        self._calls[call.number] = call
        try:
            await self.send(message(call.number))
        except BaseException:
            call.close()
            raise
        return call

    def forget(self, call: Call) -> None:
        if self._calls.pop(call.number, None) and not call.ended and not self._closed:
            self._writer.write(encode_frame(dump(Cancel(call.number))))

    async def news(self) -> AsyncIterator[News]:
        """What the child says about itself, while outcomes are handed to their calls. Ends when the child does.

        Raises WireError if it says something unknown.
        """
        while True:
            try:
                size = payload_bytes(await self._reader.readexactly(HEADER_BYTES))
                messages = parse_from_child(decode_payload(await self._reader.readexactly(size)))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            for message in messages:
                if isinstance(message, Beat | Loading | Loaded):
                    yield message
                else:
                    self._hand_over(message)

    def _hand_over(self, message: FromChild) -> None:
        assert not isinstance(message, Beat | Loading | Loaded)
        call = self._calls.get(message.call)  # None: closed while this was on its way.
        if call:
            call.put(to_outcome(message))

    def close(self, reason: str) -> None:
        """Every open call ends with EngineUnavailable."""
        self._closed = True
        for call in self._calls.values():
            if not call.ended:
                call.put(EngineUnavailable(reason))
        self._calls.clear()
        self._writer.close()
