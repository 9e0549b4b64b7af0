"""Figures for Prometheus: counts and times only, nothing of what was asked. OpenTelemetry's names where one exists."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from appliance.engine.protocol import EngineHealth
from appliance.meter import Charged, Credit
from sync.record import Meter

METHODS = frozenset(
    {"GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"}
)  # others share one label: it must stay bounded
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """One registry per app, so that two apps in one process (tests) do not share figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter("nukkad_requests", "Requests answered", ["route", "method", "status"], registry=own)
        self._seconds = Histogram(
            "gen_ai_server_request_duration_seconds", "Time to the last byte", ["route"], buckets=SECONDS, registry=own
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time to the first text", buckets=SECONDS, registry=own
        )
        self._units = Counter("nukkad_units", "Units recorded", ["meter", "unit", "outcome"], registry=own)
        self._cost = Counter("nukkad_cost_micro_rupees", "Cost recorded", ["meter"], registry=own)
        self._engine = Gauge("nukkad_engine", "Engine: ready, restarts, queued, running, slots", ["what"], registry=own)
        self._records = Gauge(
            "nukkad_records", "Records: last written, last billed by the node", ["what"], registry=own
        )
        self._credit = Gauge("nukkad_credit_micro_rupees", "Lease: granted, allowance, spent", ["what"], registry=own)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method if method in METHODS else "other", str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_text(self, seconds: float) -> None:
        self._first.observe(seconds)

    def charged(self, meter: Meter, charge: Charged) -> None:
        for unit, quantity in charge.units.items():
            self._units.labels(meter.name.lower(), unit.name.lower(), charge.outcome.name.lower()).inc(quantity)
        self._cost.labels(meter.name.lower()).inc(charge.cost)

    def render(self, health: EngineHealth, written: int, billed: int, credit: Credit | None) -> bytes:
        for what in ("ready", "restarts", "queued", "running", "slots"):
            self._engine.labels(what).set(getattr(health, what))
        self._records.labels("written").set(written)
        self._records.labels("billed").set(billed)
        if credit is not None:
            for what in ("granted", "allowance", "spent"):
                self._credit.labels(what).set(getattr(credit, what))
        return generate_latest(self._registry)
