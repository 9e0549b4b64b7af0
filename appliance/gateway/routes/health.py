"""Whether the box lives, whether it can serve, and its figures."""

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from appliance.gateway.access import TheBox, known_name

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """200 as long as the gateway answers at all."""
    return {"status": "ok"}


@router.get("/readyz")
async def get_readiness(box: TheBox) -> JSONResponse:
    """200 when a model can answer; 503 while the engine starts or is down."""
    health = await box.engine.health()
    return JSONResponse({"ready": health.ready}, 200 if health.ready else 503)


@router.get("/metrics", dependencies=[Depends(known_name)])
async def get_metrics(box: TheBox) -> Response:
    """Prometheus text format."""
    receipt = box.ledger.receipt()
    billed = receipt.acked if receipt else 0
    text = box.metrics.render(await box.engine.health(), box.ledger.head().seq, billed, box.meter.credit())
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
