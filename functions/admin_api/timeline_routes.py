"""What happened to a study or an instance, step by step."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from admin_api.answers import Page
from admin_api.parameters import IndexDep, Limit, Offset
from admin_api.strict_route import StrictRoute
from bucky.index import TimelineStep

routes = APIRouter(tags=["studies"], route_class=StrictRoute)


@routes.get("/api/timeline/{of}")
def timeline(
    of: Annotated[str, Path(pattern=r"^([0-9.]{1,64}|[0-9a-f]{64})$", description="A UID, or an instance's SHA-256.")],
    index: IndexDep,
    each: Annotated[bool, Query(description="Every instance of a study by itself.")] = False,
    limit: Limit = 500,
    offset: Offset = 0,
) -> Page[TimelineStep, int]:
    """Return the steps of a study or an instance, from association to last delivery, in the order of time.

    Steps that say the same of several instances of a study are one, with how many, unless `each` is asked for.
    """
    found = index.timeline(of, each=each, limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)
