"""Whether the box lives, whether it can serve, and its figures."""

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from appliance.gateway.access import TheBox, known_name
from sync.errors import LedgerUnavailable

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """200 as long as the gateway answers at all."""
    return {"status": "ok"}


@router.get("/readyz")
async def get_readiness(box: TheBox) -> JSONResponse:
    """200 when a model serves and the ledger takes records; 503 with the reason otherwise."""
    health = await box.engine.health()
    models = await box.engine.models() if health.ready else ()
    unwritable = None
    try:
        box.ledger.check_writable()
    except LedgerUnavailable as error:
        unwritable = str(error)
    if models and unwritable is None:
        return JSONResponse({"ready": True, "models": [model.name for model in models]})
    if unwritable is not None:
        reason = unwritable
    elif not health.ready:
        reason = "the engine is starting"
    elif health.set_aside:
        reason = "; ".join(f"{name} cannot be served: {why}" for name, why in health.set_aside)
    else:
        reason = "no package serves: install one with `nukkad models install PATH`"
    return JSONResponse({"ready": False, "reason": reason}, 503, headers={"Retry-After": "2"})


@router.get("/metrics", dependencies=[Depends(known_name)])
async def get_metrics(box: TheBox) -> Response:
    """Prometheus text format."""
    receipt = box.ledger.receipt()
    billed = receipt.acked if receipt else 0
    text = box.metrics.render(await box.engine.health(), box.ledger.head().seq, billed, box.meter.credit())
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
