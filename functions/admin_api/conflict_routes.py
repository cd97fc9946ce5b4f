"""Conflicts: bytes that came under a SOP Instance UID that was taken, how they differ, and deciding about them."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from admin_api.answers import Page
from admin_api.parameters import Digest, IndexDep, Limit, LinkDep, ObjectsDep, Offset
from admin_api.strict_route import StrictRoute
from bucky.broker import JetStreamPublisher
from bucky.correcting import carry_out
from bucky.corrections import Decision, Verdict
from bucky.differences import Differences
from bucky.differences.stored import compared_objects
from bucky.errors import NotFound
from bucky.index import DeliveryRow, Index, InstanceRow

SOURCE = "/bucky/admin-api"

routes = APIRouter(tags=["conflicts"], route_class=StrictRoute)


class ConflictView(BaseModel):
    """Bytes that were sent under a taken SOP Instance UID, and what is current there.

    `differences` compares the current bytes (first) with these (second); it is left out for bytes that are current.
    """

    instance: InstanceRow
    current: InstanceRow | None
    state: Literal["open", "decided", "current"]
    differences: Differences | None
    decisions: list[Decision]
    deliveries: list[DeliveryRow]


class Order(BaseModel):
    """Why somebody decides so."""

    model_config = ConfigDict(extra="forbid")
    note: str = Field("", max_length=1000)


@routes.get("/api/conflicts")
def list_conflicts(index: IndexDep, limit: Limit = 50, offset: Offset = 0) -> Page[InstanceRow, int]:
    """Return the bytes that await a decision, the newest first."""
    found = index.conflicts(limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/conflicts/decisions")
def list_decisions(index: IndexDep, limit: Limit = 50, offset: Offset = 0) -> Page[Decision, int]:
    """Return what was decided, the newest first."""
    found = index.decisions(limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/conflicts/{sha256}")
def get_conflict(
    sha256: Digest,
    index: IndexDep,
    objects: ObjectsDep,
    compare: Annotated[bool, Query(description="Compare headers and pixels, which takes a while.")] = True,
) -> ConflictView:
    """Return bytes that came under a taken SOP Instance UID, and how they differ from the current ones."""
    row = index.instance(sha256)
    current = index.current_instance(row.sop_instance_uid)
    made = index.decisions_about(row.sop_instance_uid)
    if not row.quarantined and not made:
        raise NotFound("No other bytes came under this instance's UID, so there is nothing to decide.")
    apart = row.quarantined and current is not None
    return ConflictView(
        instance=row,
        current=current,
        state="current" if not row.quarantined else "open" if row.decision is None else "decided",
        differences=compared_objects(objects, current.key, row.key) if current and apart and compare else None,
        decisions=made,
        deliveries=index.deliveries_of({row.sha256, *([current.sha256] if current else [])}),
    )


@routes.post("/api/conflicts/{sha256}/{verb}", responses={409: {}})
async def decide(
    sha256: Digest,
    verb: Literal["accept", "reject", "undo"],
    order: Order,
    index: IndexDep,
    objects: ObjectsDep,
    link: LinkDep,
) -> Decision:
    """Decide about bytes: make them current and send them, leave them aside, or undo what was decided last.

    Deciding the same again does again what may not have been done, and nothing else.
    """
    publisher = JetStreamPublisher(link.jetstream())
    decision = await _decided(index, sha256, verb, order.note)
    await carry_out(decision, index, objects, publisher, SOURCE)
    return decision


async def _decided(index: Index, sha256: str, verb: Literal["accept", "reject", "undo"], note: str) -> Decision:
    verdicts = {"accept": Verdict.ACCEPTED, "reject": Verdict.REJECTED, "undo": Verdict.REOPENED}
    return await asyncio.to_thread(index.decide, sha256, verdicts[verb], "admin API", note)
