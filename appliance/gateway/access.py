"""Who may use a route: callers by key, the operator by the admin token, browsers under the names the box answers to."""

import hmac
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from appliance.box import Box, the_box
from appliance.gateway.errors import Forbidden, Unauthorized
from appliance.store.keys import Key

TheBox = Annotated[Box, Depends(the_box)]


def any_key(request: Request, box: TheBox) -> Key:
    """The caller's key, from `Authorization: Bearer nk_…`. Raises Unauthorized."""
    key = box.keys.find(_bearer(request))
    if key is None:
        raise Unauthorized("this API key opens nothing here (unknown or revoked): `nukkad keys create NAME` makes one")
    return key


async def the_key(key: Annotated[Key, Depends(any_key)], box: TheBox) -> AsyncIterator[Key]:
    """The caller's key, which holds one of its places while the request is open. Raises Unauthorized, TooManyCalls."""
    with box.running.hold_place(key.id):
        yield key


def the_operator(request: Request, box: TheBox) -> None:
    """Raises Unauthorized unless the request carries the admin token of this box."""
    if not hmac.compare_digest(_bearer(request).encode(), box.admin_token.encode()):
        raise Unauthorized("this route takes the admin token, which stands in the state folder of the box")


def known_name(request: Request, box: TheBox) -> None:
    """Refuses a browser that was led here under a foreign name (DNS rebinding). Raises Forbidden."""
    host = request.headers.get("host", "").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name not in box.settings.host_names:
        raise Forbidden("this page is not served under that name: add it to NUKKAD_HOSTS if the name is yours", "Host")


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("send the header Authorization: Bearer and your key")
    return token.strip()


TheKey = Annotated[Key, Depends(the_key)]
AnyKey = Annotated[Key, Depends(any_key)]  # for what ends calls or asks after them: its places may all be taken
