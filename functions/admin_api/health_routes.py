"""Health for everybody (up or down), and in detail for who has the key."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from admin_api.health import Health
from admin_api.parameters import HealthDep, WatchDep
from admin_api.strict_route import StrictRoute

open_routes = APIRouter(include_in_schema=False)
routes = APIRouter(tags=["health"], route_class=StrictRoute)


@open_routes.get("/health")
async def health(board: HealthDep, watch: WatchDep) -> JSONResponse:
    """Say which parts are up, and how many things need attention, and nothing else: this page is open."""
    report = await board.report()
    parts = {name: part.status for name, part in report.parts.items()}
    body = {"status": report.status, "attention": len(await watch.items()), "parts": parts}
    return JSONResponse(body, 503 if report.status == "down" else 200)


@open_routes.get("/ready")
async def ready(board: HealthDep) -> JSONResponse:
    """Answer 200 when the API can answer: it has the index."""
    status = (await board.part("index")).status
    return JSONResponse({"status": status}, 200 if status == "up" else 503)


@routes.get("/api/health", response_model=Health, responses={503: {"model": Health}})
async def detailed_health(board: HealthDep, watch: WatchDep) -> JSONResponse:
    """Return the health of every part, with reasons; 503 when one is down."""
    report = await board.report()
    report.attention = len(await watch.items())
    return JSONResponse(report.model_dump(mode="json"), 503 if report.status == "down" else 200)
