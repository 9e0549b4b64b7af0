"""Enrolling a box that does not run; a running one does it by itself over its admin route."""

from typing import Any

from appliance import state
from appliance.node import over_http
from appliance.settings import Settings
from sync.clock import SystemClock
from sync.enrol import enrol
from sync.identity import load_or_create


async def enrol_stopped_box(settings: Settings, code: str) -> dict[str, Any]:
    """The customer and epoch. Raises IdentityError, NodeError, StateError."""
    state.prepare(settings.state)
    with state.hold(settings.state):
        identity = load_or_create(settings.state)
        async with over_http(SystemClock())(settings.node_url, identity) as node:
            identity = await enrol(settings.state, identity, node, code)
    assert identity.enrolment is not None
    return {"customer": identity.enrolment.customer, "epoch": identity.enrolment.epoch}
