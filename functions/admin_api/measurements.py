"""What Prometheus may scrape from the admin API."""

import asyncio
from contextlib import suppress

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, Histogram, generate_latest

from admin_api.parameters import HealthDep, IndexDep, WatchDep
from bucky.errors import IndexUnavailable

ANSWER_SECONDS = Histogram("bucky_admin_answer_seconds", "Time to answer a request.", ("method", "route", "status"))
PART_UP = Gauge("bucky_part_up", "1 while a part is up, as the admin API sees it.", ("part",))
CONFLICTS_OPEN = Gauge("bucky_conflicts_open", "Instances sent again with other bytes that await a decision.")

ATTENTION = Gauge("bucky_attention", "How many a thing that needs attention concerns.", ("kind", "subject"))
ATTENTION_SINCE = Gauge("bucky_attention_since_timestamp_seconds", "Since when it needs it.", ("kind", "subject"))

open_routes = APIRouter(include_in_schema=False)


@open_routes.get("/metrics")
async def metrics(board: HealthDep, watch: WatchDep, index: IndexDep) -> Response:
    """Return the measurements in Prometheus' text format; loopback only, Traefik does not route here."""
    for name, part in (await board.report()).parts.items():
        PART_UP.labels(name).set(part.status == "up")
    for gauge in (ATTENTION, ATTENTION_SINCE):
        gauge.clear()
    for item in await watch.items():
        ATTENTION.labels(item.kind, item.subject).set(item.count)
        ATTENTION_SINCE.labels(item.kind, item.subject).set(item.since.timestamp() if item.since else 0)
    with suppress(IndexUnavailable):  # which the parts say
        CONFLICTS_OPEN.set(await asyncio.to_thread(index.open_conflicts))
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
