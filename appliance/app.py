"""The gateway as an ASGI app: wiring only."""

from fastapi import FastAPI

from appliance.box import Box
from appliance.gateway import errors
from appliance.gateway.edge import Edge
from appliance.gateway.limits import Limits
from appliance.gateway.routes import routers


def create_app(box: Box) -> FastAPI:
    """The routes of a box. Starts nothing and owns nothing: whoever made the parts of the box closes them."""
    app = FastAPI(title="Nukkad", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.box = box
    for router in routers:
        app.include_router(router)
    errors.install(app)
    settings = box.settings
    app.add_middleware(
        Limits,
        body_bytes_max=settings.body_bytes_max,
        receive_s=settings.receive_s,
        concurrency=settings.concurrency,
    )
    app.add_middleware(Edge, metrics=box.metrics, clock=box.clock)  # Added last: the outermost.
    return app
