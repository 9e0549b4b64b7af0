"""The first page, and what it loads. No key and no token is asked for or shown: who reaches the box may see how it is.

A box listens on loopback unless its operator says otherwise (NUKKAD_HOST), and browsers get the page only under names
that the operator listed (NUKKAD_HOSTS).
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from appliance import status, topups
from appliance.box import Box
from appliance.console import page
from appliance.console.view import View, view
from appliance.console.words import Words, choose
from appliance.gateway.access import TheBox, known_name
from appliance.gateway.errors import NotFound

router = APIRouter(tags=["console"], dependencies=[Depends(known_name)])

Asked = Annotated[str | None, Query(alias="lang")]
Accepted = Annotated[str | None, Header(alias="Accept-Language")]


@router.get("/")
async def get_page(request: Request, box: TheBox, asked: Asked = None, accepted: Accepted = None) -> HTMLResponse:
    words = Words(choose(asked, accepted))
    shown = page.render(await _view(box, words), words, str(request.base_url).rstrip("/"))
    return HTMLResponse(shown, headers={**page.HEADERS, "Content-Language": words.language, "Vary": "Accept-Language"})


@router.get("/console/status.json")
async def get_console_status(box: TheBox, asked: Asked = None, accepted: Accepted = None) -> JSONResponse:
    """What changes on the page: `live` texts by name; a page whose `shape` differs loads itself anew."""
    found = await _view(box, Words(choose(asked, accepted)))
    shown: dict[str, Any] = {"state": found.state, "shape": found.shape, "live": found.live}
    return JSONResponse({**shown, "credit_share": found.credit_share}, headers=page.HEADERS)


@router.get("/console/topup.svg")
async def get_console_topup(box: TheBox) -> Response:
    """The open payment link as a QR code."""
    credit = box.meter.credit()
    if credit is None or not credit.topup:
        raise NotFound("there is no payment link yet: it comes from the billing node")
    return Response(topups.svg(credit.topup), media_type="image/svg+xml", headers=page.HEADERS)


@router.get("/console/{name}")
async def get_console_file(name: str) -> Response:
    if name not in page.FILES:
        raise NotFound("the page has no such file")
    return Response(page.read(name), headers={**page.HEADERS, "Content-Type": page.FILES[name]})


async def _view(box: Box, words: Words) -> View:
    keys = [(key.name, key.hint) for key in box.keys.all() if key.revoked_ms is None]
    return view(await status.describe(box), keys, box.clock.wall_ms(), words)
