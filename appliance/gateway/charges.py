"""How a charge is shown: in headers where they can still be sent, in the last object of a stream otherwise."""

from typing import Any
from uuid import UUID

from appliance.meter import Charged
from sync.price import rupees


def headers(charge: Charged) -> dict[str, str]:
    return {
        "X-Nukkad-Record": charge.record,
        "X-Nukkad-Cost": rupees(charge.cost),
        "X-Nukkad-Units": ", ".join(f"{name}={quantity}" for name, quantity in _units(charge).items()),
    }


def shown(charge: Charged, request_id: UUID) -> dict[str, Any]:
    """The `nukkad` object: cost in rupees as an exact decimal string."""
    return {
        "request_id": str(request_id),
        "record": charge.record,
        "outcome": charge.outcome.name.lower(),
        "cost": rupees(charge.cost),
        "units": _units(charge),
    }


def _units(charge: Charged) -> dict[str, int]:
    return {unit.name.lower(): quantity for unit, quantity in sorted(charge.units.items())}
