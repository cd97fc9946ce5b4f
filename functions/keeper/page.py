"""The keeper's own page: `/health` for people and probes, `/metrics` for Prometheus."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bucky.runtime.trouble import Troubles
from keeper.findings import FindingKind, ReconcileReport
from keeper.overdue import LookedAfter
from keeper.sweep import Swept

# A sweep comes each second; without one for this time the keeper is not well.
SILENT_SECONDS = 60.0
EFFECTS = {
    "broker": "No study becomes stable, and nothing late is looked after; nothing is lost.",
    "index": "No study becomes stable, and nothing late is looked after; nothing is lost.",
    "sweep": "No study becomes stable; rules that wait for that wait on.",
    "due deliveries": "Late commitments are not asked for again.",
    "age limit": "What waits too long to be delivered waits on.",
    "reconcile": "What was lost in between is not found yet.",
}


@dataclass(slots=True)
class KeeperState:
    """What the keeper did last, and the trouble it has, by what it does."""

    swept: Swept | None = None
    swept_at: float = field(default_factory=time.monotonic)
    report: ReconcileReport | None = None
    trouble: dict[str, str] = field(default_factory=dict)
    troubles: Troubles = field(default_factory=Troubles)

    def failed(self, name: str, reason: str) -> None:
        """Note that a piece of work failed; it is tried again."""
        self.trouble[name] = reason
        self.troubles.note(name, reason, EFFECTS.get(name, ""), "bucky status")

    def worked(self, name: str) -> None:
        """Note that a piece of work was done."""
        self.trouble.pop(name, None)
        self.troubles.clear(name)


class HealthPage:
    """The page, and the measurements on it."""

    def __init__(self, state: KeeperState) -> None:
        self._state = state
        self._registry = CollectorRegistry()
        registry = self._registry
        self._declared = Counter("bucky_keeper_declared_total", "Stable studies and series declared", registry=registry)
        counts = {"asked": "again for a commitment", "sent": "to be sent again", "given_up": "given up"}
        self._looked_after = {
            name: Counter(f"bucky_keeper_deliveries_{name}_total", f"Deliveries {said}", registry=registry)
            for name, said in counts.items()
        }
        self._waiting = Gauge("bucky_keeper_waiting", "Quiet studies and series not yet declared", registry=registry)
        self._found = Gauge("bucky_keeper_found", "Found by the last reconciling, by kind", ["kind"], registry=registry)
        self._reconciled = Gauge("bucky_keeper_reconciled_timestamp_seconds", "When that ended", registry=registry)
        self.asgi = Starlette(routes=[Route("/health", self._health), Route("/metrics", self._metrics)])

    def swept(self, swept: Swept) -> None:
        """Note a sweep."""
        self._state.swept, self._state.swept_at = swept, time.monotonic()
        self._declared.inc(swept.declared)
        self._waiting.set(swept.waiting)

    def looked_after(self, done: LookedAfter) -> None:
        """Note what became of deliveries that were due."""
        for name, counter in self._looked_after.items():
            counter.inc(getattr(done, name))

    def reconciled(self, report: ReconcileReport) -> None:
        """Note a reconciling."""
        self._state.report = report
        self._reconciled.set_to_current_time()
        for kind in FindingKind:
            self._found.labels(kind.value).set(report.count(kind))

    async def _health(self, _request: Request) -> Response:
        state = self._state
        silent = time.monotonic() - state.swept_at > SILENT_SECONDS
        report = state.report
        body: dict[str, Any] = {
            "status": "stalled" if silent else "degraded" if state.trouble else "ok",
            "sweep": asdict(state.swept) if state.swept else None,
            "reconcile": None if report is None else {"wrong": report.wrong, "found": _counts(report)},
            "trouble": state.troubles.listed(),
        }
        return JSONResponse(body, 503 if silent else 200)

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _counts(report: ReconcileReport) -> dict[str, int]:
    return {kind.value: found.count for kind, found in report.found.items()}
