"""Conflicts: bytes that came under a SOP Instance UID that was taken, how they differ, and deciding about them."""

import asyncio
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from admin_api.answers import Page
from admin_api.parameters import IndexDep, Limit, LinkDep, ObjectsDep, Offset
from admin_api.strict_route import StrictRoute
from bucky.broker.connection import JetStreamPublisher
from bucky.deciding.correcting import carry_out
from bucky.differences import Differences
from bucky.differences.stored import compared_objects
from bucky.errors import NotFound
from bucky.index import DeliveryRow, Index, InstanceRow
from bucky.routing.corrections import ConflictDecision, Verdict

SOURCE = "/bucky/admin-api"

routes = APIRouter(tags=["conflicts"], route_class=StrictRoute)


State = Literal["open", "decided", "current"]
# As many digits as `bucky conflicts list` shows on a terminal, or fewer.
SomeDigits = Annotated[
    str, Path(pattern=r"^[0-9a-f]{4,64}$", description="SHA-256 of the data set bytes, or how it begins.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedConflict(InstanceRow):
    """Bytes that came under a taken SOP Instance UID, and whether somebody decided about them."""

    state: State


class ConflictView(BaseModel):
    """Bytes that were sent under a taken SOP Instance UID, and what is current there.

    `differences` compares the current bytes (first) with these (second); it is left out for bytes that are current.
    """

    instance: InstanceRow
    current: InstanceRow | None
    state: State
    differences: Differences | None
    decisions: list[ConflictDecision]
    deliveries: list[DeliveryRow]


class MadeDecision(ConflictDecision):
    """A decision, and where the bytes that are current now were sent before and cannot be sent again."""

    not_sent_to: list[str] = Field(description="Destinations that are not in the routing any more.")


class DecisionRequest(BaseModel):
    """Why somebody decides so."""

    model_config = ConfigDict(extra="forbid")
    note: str = Field("", max_length=1000)


@routes.get("/api/conflicts")
def list_conflicts(
    index: IndexDep,
    state: Annotated[
        Literal["open", "decided", "all"], Query(description="Which: those that await a decision?")
    ] = "open",
    limit: Limit = 50,
    offset: Offset = 0,
) -> Page[ListedConflict, int]:
    """Return the bytes that others are current in place of, the newest first."""
    decided = {"open": False, "decided": True, "all": None}[state]
    found = index.conflicts(decided=decided, limit=limit + 1, offset=offset)
    listed = [
        ListedConflict(**{name.name: getattr(row, name.name) for name in fields(row)}, state=_state(row))
        for row in found
    ]
    return Page(items=listed[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/conflicts/decisions")
def list_decisions(index: IndexDep, limit: Limit = 50, offset: Offset = 0) -> Page[ConflictDecision, int]:
    """Return what was decided, the newest first."""
    found = index.decisions(limit=limit + 1, offset=offset)
    return Page(items=found[:limit], next=offset + limit if len(found) > limit else None)


@routes.get("/api/conflicts/{sha256}")
def get_conflict(
    sha256: SomeDigits,
    index: IndexDep,
    objects: ObjectsDep,
    compare: Annotated[bool, Query(description="Compare headers and pixels, which takes a while.")] = True,
) -> ConflictView:
    """Return bytes that came under a taken SOP Instance UID, and how they differ from the current ones."""
    row = index.instance(index.conflict_digest(sha256))
    current = index.current_instance(row.sop_instance_uid)
    made = index.decisions_about(row.sop_instance_uid)
    if not row.conflict and not made:
        raise NotFound("No other bytes came under this instance's UID, so there is nothing to decide.")
    apart = row.conflict and current is not None
    return ConflictView(
        instance=row,
        current=current,
        state=_state(row),
        differences=compared_objects(objects, current.key, row.key) if current and apart and compare else None,
        decisions=made,
        deliveries=index.deliveries_of({row.sha256, *([current.sha256] if current else [])}),
    )


@routes.post("/api/conflicts/{sha256}/{verb}", responses={409: {}})
async def decide(
    sha256: SomeDigits,
    verb: Literal["accept", "reject", "undo"],
    order: DecisionRequest,
    index: IndexDep,
    objects: ObjectsDep,
    link: LinkDep,
) -> MadeDecision:
    """Decide about bytes: make them current and send them, leave them aside, or undo what was decided last.

    Deciding the same again does again what may not have been done, and nothing else; another note is kept.
    """
    publisher = JetStreamPublisher(link.jetstream())
    decision = await _decided(index, sha256, verb, order.note)
    gone = await carry_out(decision, index, objects, publisher, SOURCE)
    return MadeDecision(**decision.model_dump(), not_sent_to=list(gone))


async def _decided(index: Index, sha256: str, verb: Literal["accept", "reject", "undo"], note: str) -> ConflictDecision:
    verdicts = {"accept": Verdict.ACCEPTED, "reject": Verdict.REJECTED, "undo": Verdict.REOPENED}
    whole = await asyncio.to_thread(index.conflict_digest, sha256)
    return await asyncio.to_thread(index.decide, whole, verdicts[verb], "admin API", note)


def _state(row: InstanceRow) -> State:
    if not row.conflict:
        return "current"
    return "open" if row.decision is None else "decided"
