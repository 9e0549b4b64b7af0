"""The node's HTTP application: wiring, and one shape for every error."""

import logging
from collections.abc import Callable

import psycopg
import psycopg_pool
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sync.clock import Clock
from sync.node.context import Node
from sync.node.database import Database
from sync.node.errors import Refusal
from sync.node.routes import device, health, operator
from sync.node.settings import Settings

log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    database: Database,
    clock: Clock,
    random: Callable[[int], bytes],
    *,
    key: Ed25519PrivateKey,
    token: str,
) -> FastAPI:
    """The database is open and its tables are up to date; the app closes nothing."""
    app = FastAPI(title="Nukkad node", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.node = Node(settings, database, key, token, clock, random)
    for router in (health.router, device.router, operator.router):
        app.include_router(router)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
    for away in (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests):
        app.add_exception_handler(away, _unavailable)
    app.add_exception_handler(Exception, _failed)
    return app


def _error(status: int, code: str, message: str, **extras: object) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}, **extras}, status_code=status)


def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return _error(error.status, error.code, error.message, **error.extras)


def _no_route(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "unknown_route", 405: "wrong_method"}.get(error.status_code, "refused")
    return _error(error.status_code, code, str(error.detail))


def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    log.warning("the database is away or too slow: %s", type(error).__name__)
    answer = _error(503, "unavailable", "the node's database is away or busy: try again in a few seconds")
    answer.headers["Retry-After"] = "2"
    return answer


def _failed(request: Request, error: Exception) -> JSONResponse:
    """The server's own log is off, so this is the one place that says what went wrong."""
    log.error("%s %s failed", request.method, getattr(request.scope.get("route"), "path", "?"), exc_info=error)
    return _error(500, "internal", "the node failed; its log says how, and nothing of this request was kept")
