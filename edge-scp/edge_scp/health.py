"""The edge's own page: `/health` for people and probes, `/metrics` for Prometheus."""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edge_scp.dependency import Dependency
from edge_scp.listener import DicomListener
from edge_scp.metrics import Metrics
from edge_scp.spool import Spool


def report(listeners: Sequence[DicomListener], spool: Spool, dependencies: Sequence[Dependency]) -> dict[str, Any]:
    """Return the edge's health; it is `accepting` even while store and broker are away."""
    state = spool.state()
    accepting = state.accepting and all(listener.accepting for listener in listeners)
    well = accepting and state.quarantined == 0 and all(dependency.ok for dependency in dependencies)
    return {
        "status": "ok" if well else "degraded" if accepting else "refusing",
        "accepting": accepting,
        "listeners": [
            {
                "aet": listener.aet,
                "port": listener.port,
                "accepting": listener.accepting,
                "associations": listener.associations,
            }
            for listener in listeners
        ],
        "spool": {
            "instances": state.instances,
            "bytes": state.bytes,
            "oldest_seconds": round(state.oldest_seconds, 3),
            "quarantined": state.quarantined,
        },
        **{dependency.name: {"ok": dependency.ok, "error": dependency.error} for dependency in dependencies},
    }


def health_app(
    listeners: Sequence[DicomListener], spool: Spool, dependencies: Sequence[Dependency], metrics: Metrics
) -> Starlette:
    """Return the ASGI app; `/health` is 503 when no instance would be accepted."""

    async def health(_request: Request) -> JSONResponse:
        body = report(listeners, spool, dependencies)
        return JSONResponse(body, 200 if body["accepting"] else 503)

    async def show_metrics(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/metrics", show_metrics)])
