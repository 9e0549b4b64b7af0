"""One generation from the meter to the caller's last byte, streamed or whole."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from appliance.box import Box
from appliance.engine.protocol import Delta, EngineError, Finished, GenerateEvent, GenerateRequest, ModelInfo, Started
from appliance.gateway import charges, errors
from appliance.gateway.caller import Caller, until
from appliance.gateway.dialects import DONE, Dialect, Json, Usage, event
from appliance.gateway.running import Call
from appliance.meter import Charged, MeterError, Reservation, Units
from appliance.text.points import count_points
from sync.errors import LedgerError
from sync.record import Meter, Outcome, Unit

# Room reserved per token that may be generated. Indian scripts stay below 5 code points a token and English near 4;
# an answer that goes beyond makes its reservation grow.
POINTS_PER_TOKEN = 8
# Room for an answer whose caller set no limit; a longer one makes its reservation grow too. The whole context would
# keep a nearly empty wallet from the short answers that it can still pay for.
UNLIMITED_TOKENS = 256


@dataclass(frozen=True)
class Job:
    """A generation that was asked for, and how it is metered and told."""

    request: GenerateRequest
    model: ModelInfo
    meter: Meter
    points_in: int
    dialect: Dialect
    include_usage: bool


@dataclass
class Progress:
    """What happened so far. Text is here once it was handed over (streamed) or generated (whole)."""

    texts: list[str] = field(default_factory=list)
    points_most: int = 0  # of the texts one by one; joined they have as many code points or fewer
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reason: str | None = None  # set when the engine finished by itself

    def take(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        self.points_most += count_points(delta.text)
        self.completion_tokens += delta.tokens

    def finish(self, event: Finished) -> None:
        self.reason, self.completion_tokens = event.reason, event.completion_tokens

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt_tokens, self.completion_tokens)


class Stream(Response):
    """Answers with server-sent events. The record is durable before the closing event leaves, which carries the charge
    as its `nukkad` (null when the call was cancelled before it gave text and is free).

    A caller who leaves pays for what was handed over, and nothing when that was no text. When the engine fails, an
    error event is the last one, no [DONE] follows, and the call is free. When its room in the lease runs out (an answer
    far longer than the reservation foresaw), the error event carries the charge for what was handed over.
    """

    def __init__(self, box: Box, key_id: int, request: Request, job: Job) -> None:
        super().__init__()
        self._box = box
        self._key_id = key_id
        self._request_id = request.state.request_id
        self._job = job

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        box, job = self._box, self._job
        with (
            box.running.enter(self._key_id, self._request_id) as call,
            _reserve(box, call, job) as reservation,
        ):
            caller = Caller(receive, send, call.stop, box.settings.send_s)
            async with caller.watched():
                progress = Progress()
                try:
                    await self._pass_on(caller, call, reservation, progress)
                    await self._end(caller, reservation, progress)
                except (EngineError, MeterError, LedgerError) as error:
                    if not caller.opened:
                        raise
                    told = errors.body(error)
                    if isinstance(error, MeterError) and progress.texts:
                        told["nukkad"] = await self._charge(reservation, progress, Outcome.CANCELLED)
                    await caller.hand(event(told))
                    await caller.close()

    async def _pass_on(self, caller: Caller, call: Call, reservation: Reservation, progress: Progress) -> None:
        """Hands over text until the engine has finished, the call is stopped, or its room in the lease is used up."""
        began = monotonic()
        async with aclosing(_events(self._box, call, self._job)) as events:
            async for happened in events:
                match happened:
                    case Started():
                        progress.prompt_tokens = happened.prompt_tokens
                        await caller.open()
                        if opening := self._job.dialect.opening():
                            await caller.hand(event(opening))
                    case Delta():
                        if not progress.texts:
                            self._box.metrics.first_text(monotonic() - began)
                        reservation.cover(_most(self._job, progress.points_most + count_points(happened.text)))
                        if await caller.hand(event(self._job.dialect.piece(happened.text))):
                            progress.take(happened)
                    case Finished():
                        progress.finish(happened)

    async def _end(self, caller: Caller, reservation: Reservation, progress: Progress) -> None:
        charge = None
        if progress.reason or progress.texts:
            outcome = Outcome.COMPLETED if progress.reason else Outcome.CANCELLED
            charge = await self._charge(reservation, progress, outcome)
        elif caller.here and not caller.opened:
            raise errors.Cancelled("the call was cancelled before it gave text; nothing was billed")
        dialect = self._job.dialect
        await caller.hand(event({**dialect.closing(progress.reason or "stop"), "nukkad": charge}))
        if self._job.include_usage:
            await caller.hand(event(dialect.usage(progress.usage)))
        await caller.hand(DONE)
        await caller.close()

    async def _charge(self, reservation: Reservation, progress: Progress, outcome: Outcome) -> Json:
        return charges.shown(await _commit(self._box, reservation, self._job, progress, outcome), self._request_id)


async def answer_whole(box: Box, key_id: int, request: Request, job: Job) -> Response:
    """The whole answer in one body. A caller who leaves before it is recorded pays nothing."""
    request_id = request.state.request_id
    with box.running.enter(key_id, request_id) as call, _reserve(box, call, job) as reservation:
        progress = Progress()
        async with Caller(request.receive, _mute, call.stop, box.settings.send_s).watched():
            async with aclosing(_events(box, call, job)) as events:
                async for happened in events:
                    match happened:
                        case Started():
                            progress.prompt_tokens = happened.prompt_tokens
                        case Delta():
                            progress.take(happened)
                            reservation.cover(_most(job, progress.points_most))
                        case Finished():
                            progress.finish(happened)
            if progress.reason is None:
                raise errors.Cancelled("the call was cancelled; nothing was billed")
            charge = await _commit(box, reservation, job, progress, Outcome.COMPLETED)
    whole = job.dialect.whole(progress.text, progress.reason, progress.usage)
    return JSONResponse(whole, headers=charges.headers(charge))


def _events(box: Box, call: Call, job: Job) -> AsyncGenerator[GenerateEvent, None]:
    return until(call.stop, box.engine.generate(job.request))


def _reserve(box: Box, call: Call, job: Job) -> Reservation:
    tokens = min(job.request.max_tokens or UNLIMITED_TOKENS, job.model.context_tokens)
    most = _most(job, tokens * POINTS_PER_TOKEN)
    return box.meter.reserve(call.key_id, job.meter, job.model.digest, most, call.request_id)


def _most(job: Job, points_out: int) -> Units:
    """What a call costs at most that gives this much text."""
    return {Unit.REQUESTS: 1, Unit.POINTS_IN: job.points_in, Unit.POINTS_OUT: points_out}


async def _commit(box: Box, reservation: Reservation, job: Job, progress: Progress, outcome: Outcome) -> Charged:
    charge = await reservation.commit(_units(job, progress), outcome)
    box.metrics.charged(job.meter, charge)
    return charge


def _units(job: Job, progress: Progress) -> Units:
    """What was used. The text is counted as a whole: NFC joins across pieces."""
    return {
        Unit.REQUESTS: 1,
        Unit.POINTS_IN: job.points_in,
        Unit.POINTS_OUT: count_points(progress.text),
        Unit.TOKENS_IN: progress.prompt_tokens,
        Unit.TOKENS_OUT: progress.completion_tokens,
    }


async def _mute(_: object) -> None:
    """A whole answer is sent after the watch has ended."""
