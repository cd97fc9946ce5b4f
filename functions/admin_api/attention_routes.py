"""What needs attention, and the instances in quarantine."""

from fastapi import APIRouter

from admin_api.answers import Page
from admin_api.attention import Attention
from admin_api.parameters import IndexDep, Limit, Offset, WatchDep
from admin_api.strict_route import StrictRoute
from bucky.index import InstanceRow

routes = APIRouter(tags=["health"], route_class=StrictRoute)


@routes.get("/api/attention")
async def list_attention(watch: WatchDep) -> list[Attention]:
    """Return what needs attention: cause, since, count, effect and command of each; none when all is well."""
    return await watch.items()


@routes.get("/api/quarantine")
def list_quarantine(index: IndexDep, limit: Limit = 50, offset: Offset = 0) -> Page[InstanceRow, int]:
    """Return the instances that came with other content under a SOP Instance UID that was there, the newest first."""
    found = index.quarantined(limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)
