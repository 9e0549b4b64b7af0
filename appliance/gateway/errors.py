"""One shape for every refusal, and one table from what can go wrong to what a caller is told.

The shape is OpenAI's: {"error": {"message", "type", "param", "code"}}, with `topup` beside them where money is missing.
"""

import logging
import sqlite3
import traceback
from typing import Any, NamedTuple

import apsw
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from appliance.engine.protocol import EngineUnavailable, InvalidRequest, Overloaded, TooLong, UnknownModel
from appliance.meter import AlreadyRecorded, LeaseExpired, NotEnrolled, PaymentRequired
from appliance.store.collections import CollectionFull, UnknownCollection, UnknownEntry
from appliance.store.keys import KeyRefused
from appliance.tasks.search import EntryTooLong
from appliance.tasks.upload import UploadRefused
from models.errors import NotInstalled, PackageError, StoreError
from sync.errors import Conflict as Conflicting
from sync.errors import IdentityError, LedgerError, NodeError, Refused

log = logging.getLogger("nukkad.gateway")


class Refusal(Exception):
    """A request that the gateway itself turns down. `param` names the field or header at fault.

    Refusal
    ├── BadRequest        400  a field holds what cannot be honoured
    ├── Unauthorized      401  no key, or one that opens nothing
    ├── Forbidden         403  this name or token may not see this route
    ├── NotFound          404
    ├── Conflict          409  the state of the box does not allow it now
    ├── ReceiveTimeout    408  the request did not arrive in time
    ├── BodyTooLarge      413
    ├── NotJson           415
    ├── TooManyCalls      429  this key has enough calls running
    ├── Cancelled         499  the caller cancelled it (seen only by a caller who is still there)
    └── Busy              503  the box has enough requests to work on
    """

    status = 500
    kind = "invalid_request_error"
    code = "refused"
    retry_after_s: int | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code


class BadRequest(Refusal):
    status, code = 400, "invalid_value"


class Unauthorized(Refusal):
    status, kind, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(Refusal):
    status, kind, code = 403, "permission_error", "forbidden"


class NotFound(Refusal):
    status, code = 404, "not_found"


class Conflict(Refusal):
    status, code = 409, "conflict"


class ReceiveTimeout(Refusal):
    status, code = 408, "receive_timeout"


class BodyTooLarge(Refusal):
    status, code = 413, "body_too_large"


class NotJson(Refusal):
    status, code = 415, "unsupported_media_type"


class TooManyCalls(Refusal):
    status, kind, code, retry_after_s = 429, "rate_limit_error", "too_many_calls", 1


class Cancelled(Refusal):
    status, code = 499, "cancelled"


class Busy(Refusal):
    status, kind, code, retry_after_s = 503, "overloaded_error", "overloaded", 1


class Told(NamedTuple):
    """What a caller hears of a kind of failure."""

    status: int
    kind: str
    code: str
    retry_after_s: int | None = None


# The nearest base class of an exception that stands here decides.
TABLE: dict[type[Exception], Told] = {
    UnknownModel: Told(404, "invalid_request_error", "model_not_found"),
    InvalidRequest: Told(400, "invalid_request_error", "invalid_value"),
    TooLong: Told(400, "invalid_request_error", "context_length_exceeded"),
    Overloaded: Told(503, "overloaded_error", "overloaded", 1),
    EngineUnavailable: Told(503, "server_error", "engine_unavailable", 2),
    AlreadyRecorded: Told(409, "invalid_request_error", "already_recorded"),
    PaymentRequired: Told(402, "payment_required", "credit_exhausted"),
    LeaseExpired: Told(402, "payment_required", "lease_expired"),
    NotEnrolled: Told(403, "permission_error", "not_enrolled"),
    KeyRefused: Told(400, "invalid_request_error", "invalid_value"),
    UnknownCollection: Told(404, "invalid_request_error", "collection_not_found"),
    UnknownEntry: Told(404, "invalid_request_error", "entry_not_found"),
    CollectionFull: Told(409, "invalid_request_error", "collection_full"),
    UploadRefused: Told(400, "invalid_request_error", "invalid_value"),
    EntryTooLong: Told(400, "invalid_request_error", "context_length_exceeded"),
    sqlite3.Error: Told(503, "server_error", "store_unavailable", 30),
    apsw.Error: Told(503, "server_error", "store_unavailable", 30),
    PackageError: Told(400, "invalid_request_error", "invalid_package"),
    StoreError: Told(409, "invalid_request_error", "conflict"),
    NotInstalled: Told(404, "invalid_request_error", "not_installed"),
    IdentityError: Told(409, "invalid_request_error", "conflict"),
    NodeError: Told(503, "server_error", "node_unavailable", 30),
    Refused: Told(409, "invalid_request_error", "refused_by_node"),
    Conflicting: Told(409, "invalid_request_error", "conflict_with_node"),
    LedgerError: Told(503, "server_error", "ledger_unavailable", 30),
}
UNEXPECTED = Told(500, "server_error", "internal_error")
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def tell(error: Exception) -> Told:
    if isinstance(error, Refusal):
        return Told(error.status, error.kind, error.code, error.retry_after_s)
    if isinstance(error, HTTPException):
        return Told(error.status_code, "invalid_request_error", HTTP_CODES.get(error.status_code, "refused"))
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), UNEXPECTED)


def body(error: Exception) -> dict[str, Any]:
    """The JSON of a refusal. An unexpected failure tells nothing of itself: its message might hold a prompt."""
    told = tell(error)
    message = str(error)
    if isinstance(error, apsw.Error):
        message = "the box's own store cannot be used now: its disk may be full or failing"
    elif told is UNEXPECTED:
        message = (
            "the box failed to answer this request; its log names the place; GET /v1/usage/requests/ID, with the "
            "X-Request-Id of this answer, tells whether it was billed"
        )
    elif isinstance(error, HTTPException):
        message = f"{error.detail}: GET /openapi.json lists every route"
    inner: dict[str, Any] = {
        "message": message,
        "type": told.kind,
        "param": getattr(error, "param", None) or getattr(error, "field", None),
        "code": told.code,
    }
    if isinstance(error, PaymentRequired):
        inner["topup"] = error.topup
    return {"error": inner}


def response(error: Exception) -> JSONResponse:
    told = tell(error)
    headers = dict(getattr(error, "headers", None) or {})
    if told.retry_after_s is not None:
        headers["Retry-After"] = str(told.retry_after_s)
    if told.status in (408, 413):
        headers["Connection"] = "close"  # The rest of the body is not wanted.
    return JSONResponse(body(error), told.status, headers)


def log_unexpected(error: Exception, request_id: str) -> None:
    """Type and place only: messages of exceptions may hold what a caller sent."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    places = " < ".join(f"{frame.filename.rsplit('/', 2)[-1]}:{frame.lineno}" for frame in reversed(frames))
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, places)


async def _handle(_: Request, error: Exception) -> JSONResponse:
    return response(error)


def install(app: FastAPI) -> None:
    """Let the app answer everything in the table in the one shape; what is left over is the edge's."""
    for kind in (Refusal, HTTPException, *TABLE):
        app.add_exception_handler(kind, _handle)
