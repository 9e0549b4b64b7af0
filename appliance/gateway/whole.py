"""A billable call answered in one body: watched, metered, recorded before the body leaves."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from appliance.box import Box
from appliance.gateway import errors
from appliance.gateway.caller import Caller, unless
from appliance.meter import Charged, Units
from appliance.store.keys import Key
from sync.record import Meter, Outcome

T = TypeVar("T")


async def bill(
    box: Box,
    key: Key,
    request: Request,
    *,
    meter: Meter,
    model: bytes,
    most: Units,
    work: Coroutine[Any, Any, tuple[T, Units]],
) -> tuple[T, Charged]:
    """Do the work within a reservation of `most` units; it returns its result and the units really used.

    The request's body must have been read. A caller who leaves before the record is made pays nothing: the work is
    cancelled. Raises what the meter, the ledger and the work raise, Conflict, TooManyCalls, and Cancelled.
    """
    request_id = request.state.request_id
    try:
        with (
            box.running.enter(key.id, request_id) as call,
            box.meter.reserve(key.id, meter, model, most, request_id) as reservation,
        ):
            async with Caller(request.receive, _mute, call.stop, box.settings.send_s).watched():
                done = await unless(call.stop, work)
                if done is None:
                    raise errors.Cancelled("the call was cancelled; nothing was billed")
                result, used = done
                charge = await reservation.commit(used, Outcome.COMPLETED)
    finally:
        work.close()  # Does nothing to work that ran; work refused by the meter must not be left waiting.
    box.metrics.charged(meter, charge)
    return result, charge


async def _mute(_: object) -> None:
    """The answer is sent after the watch has ended."""
