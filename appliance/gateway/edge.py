"""The outermost layer: every request gets an id, every failure an answer, every answer is counted."""

import logging
from uuid import UUID, uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from appliance.gateway import errors
from appliance.gateway.limits import ALWAYS_ANSWERED
from appliance.gateway.metrics import Metrics
from sync.clock import Clock

REQUEST_ID = "X-Request-Id"
UNMATCHED = "(none)"

log = logging.getLogger("nukkad.gateway")


class Edge:
    """ASGI. The request's id (the caller's own, if it sent one) stands in `scope["state"]["request_id"]` as a UUID."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Clock) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._clock.monotonic_ns()
        status = 0
        request_id = uuid4()

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = str(request_id)
            await send(message)

        try:
            request_id = scope.setdefault("state", {})["request_id"] = _asked_id(scope) or request_id
            await self._app(scope, receive, marked)
        except ClientDisconnect:
            pass  # It left while its body was read: nobody is there to be answered.
        except Exception as error:  # noqa: BLE001 - the process's edge: whatever happened, the caller gets an answer
            if errors.tell(error) is errors.UNEXPECTED:
                errors.log_unexpected(error, str(request_id))
            if not status:
                await errors.response(error)(scope, receive, marked)
        finally:
            status = status or errors.Cancelled.status
            route = getattr(scope.get("route"), "path", UNMATCHED)
            seconds = (self._clock.monotonic_ns() - began) / 1e9
            self._metrics.answered(route, scope["method"], status, seconds)
            level = logging.DEBUG if scope["path"] in ALWAYS_ANSWERED else logging.INFO
            log.log(level, "%s %s %s %d %.3fs", request_id, scope["method"], route, status, seconds)


def _asked_id(scope: Scope) -> UUID | None:
    """The caller's own id of this request. Raises BadRequest unless it is a UUID in its usual form."""
    asked = Headers(scope=scope).get(REQUEST_ID)
    if asked is None:
        return None
    try:
        found = UUID(asked)
    except ValueError:
        found = None
    if found is None or str(found) != asked.lower():
        raise errors.BadRequest(f"{REQUEST_ID} must be a UUID such as {UUID(int=0)}, or be left out", REQUEST_ID)
    return found
