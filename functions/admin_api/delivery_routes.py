"""Where instances went: deliveries with their state and reason, and sending one again."""

from typing import Annotated

from fastapi import APIRouter, Query

from admin_api.answers import Page, Redriven
from admin_api.parameters import DeadLettersDep, Digest, IndexDep, Limit
from admin_api.redrive import redrive_delivery
from admin_api.strict_route import StrictRoute
from bucky.index import DeliveryRow, DeliveryState
from bucky.text.names import NAME_PATTERN

routes = APIRouter(tags=["deliveries"], route_class=StrictRoute)


@routes.get("/api/deliveries")
def list_deliveries(
    index: IndexDep,
    state: DeliveryState | None = None,
    destination: Annotated[str | None, Query(pattern=NAME_PATTERN)] = None,
    study: Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$")] = None,
    study_uid: Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$", deprecated="Say `study`.")] = None,
    sha256: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$", description="The `next` of the page before.")] = None,
) -> Page[DeliveryRow, str]:
    """Return deliveries, those requested last first."""
    found = index.deliveries(
        state=state, destination=destination, study_uid=study or study_uid, sha256=sha256, limit=limit + 1, after=after
    )
    items = found[:limit]
    return Page(items=items, next=items[-1].delivery_id if len(found) > limit else None)


@routes.get("/api/deliveries/{delivery_id}")
def get_delivery(delivery_id: Digest, index: IndexDep) -> DeliveryRow:
    """Return one delivery."""
    return index.delivery(delivery_id)


@routes.post("/api/deliveries/{delivery_id}/redrive", responses={409: {}})
async def redrive(delivery_id: Digest, index: IndexDep, box: DeadLettersDep) -> Redriven:
    """Send a failed or dead-lettered delivery again."""
    await redrive_delivery(box, index, delivery_id)
    return Redriven(redriven=[delivery_id], failed={})
