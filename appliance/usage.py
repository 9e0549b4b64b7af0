"""Totals of the ledger as people read them."""

from collections.abc import Iterable
from typing import Any

from appliance.store.keys import Key
from sync.ledger import Total
from sync.price import rupees
from sync.record import Unit

UNKNOWN = {"name": "", "hint": ""}


def summed(totals: Iterable[Total]) -> dict[str, Any]:
    """{"requests", "cost", "meters": {meter: {"cost", "units": {unit: quantity}}}}; costs in rupees, exact."""
    units: dict[str, dict[str, int]] = {}
    costs: dict[str, int] = {}
    requests = 0
    for total in totals:
        meter = total.meter.name.lower()
        counted = units.setdefault(meter, {})
        counted[total.unit.name.lower()] = counted.get(total.unit.name.lower(), 0) + total.quantity
        costs[meter] = costs.get(meter, 0) + total.amount
        requests += total.quantity if total.unit is Unit.REQUESTS else 0
    meters = {meter: {"cost": rupees(costs[meter]), "units": units[meter]} for meter in sorted(units)}
    return {"requests": requests, "cost": rupees(sum(costs.values())), "meters": meters}


def by_key(totals: Iterable[Total], keys: Iterable[Key]) -> dict[str, Any]:
    """The sum of all, and under "keys" that of each key that used anything."""
    found = list(totals)
    names = {key.id: {"name": key.name, "hint": key.hint} for key in keys}
    used = sorted({total.key_id for total in found})
    shown = [
        {
            "id": key_id,
            **names.get(key_id, UNKNOWN),  # box.db may be younger than the ledger.
            **summed(total for total in found if total.key_id == key_id),
        }
        for key_id in used
    ]
    return {**summed(found), "keys": shown}
