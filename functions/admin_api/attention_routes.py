"""What needs attention."""

from fastapi import APIRouter

from admin_api.attention import Attention
from admin_api.parameters import WatchDep
from admin_api.strict_route import StrictRoute

routes = APIRouter(tags=["health"], route_class=StrictRoute)


@routes.get("/api/attention")
async def list_attention(watch: WatchDep) -> list[Attention]:
    """Return what needs attention: cause, since, count, effect and command of each; none when all is well."""
    return await watch.items()
