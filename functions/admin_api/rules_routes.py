"""Asking the rules: why an instance goes where it goes, what another version would change, and running one again."""

import asyncio
from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from admin_api import rehearsal
from admin_api.parameters import CrosswalksDep, IndexDep, LinkDep, Moment, ObjectsDep
from admin_api.rehearsal import Rehearsal
from admin_api.replay import Replayed, ReplayRequest, replay
from admin_api.strict_route import StrictRoute
from bucky.deciding.explain import Explanation, explain
from bucky.deciding.requests import ParentsInIndex, facts_of
from bucky.index import Index, RoutingVersion
from bucky.routing.document import Routing
from bucky.store.headers import read_header

routes = APIRouter(tags=["rules"], route_class=StrictRoute)

Version = Annotated[int | None, Field(ge=0, le=2**31 - 1, description="A version of the routing.")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Candidate(BaseModel):
    """Which rules are asked: these, those of a version, or, with neither, those in force."""

    model_config = ConfigDict(extra="forbid")
    routing: Routing | None = None
    version: Version = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.routing is not None and self.version is not None:
            raise ValueError("give a routing or a version, not both")
        return self


class ToExplain(Candidate):
    """An instance to explain the rules for."""

    sha256: Sha256


class ReceivedBetween(BaseModel):
    """The instances received from `since` to before `until`, a page at a time."""

    since: Moment
    until: Moment
    after: Sha256 | None = Field(None, description="The `next` of the page before.")
    limit: int = Field(200, ge=1, le=1000, description="Most instances to read at a time.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.until <= self.since:
            raise ValueError("`until` must come after `since`")
        return self


class ToRehearse(Candidate, ReceivedBetween):
    """What to try out on which instances."""

    against: Version = Field(None, description="Compare with this version, not with what was in fact requested.")


class ToReplay(ReceivedBetween):
    """What to run again, for which destinations."""

    model_config = ConfigDict(extra="forbid")
    version: Version = None
    destinations: tuple[str, ...] = Field((), description="Only these destinations; default: all.")
    again: bool = Field(False, description="Also send what has been sent.")
    trial: bool = Field(False, description="Only count: write nothing, send nothing.")


@routes.post("/api/rules/explain")
def explain_instance(order: ToExplain, index: IndexDep, objects: ObjectsDep, crosswalks: CrosswalksDep) -> Explanation:
    """Say which rules match an instance and why or why not, where it goes, and what is changed on the way."""
    row = index.instance(order.sha256)
    facts = facts_of(row.received(), row.header, ParentsInIndex(index).of(row.received()))
    routing = _chosen(index, order.routing, order.version).document
    return explain(routing, facts, lambda: read_header(objects, row.key, row.size).dataset, crosswalks)


@routes.post("/api/rules/rehearse")
def rehearse(order: ToRehearse, index: IndexDep) -> Rehearsal:
    """Say what rules would have changed for instances that were received; nothing is written, nothing is sent."""
    candidate = _chosen(index, order.routing, order.version)
    against = None if order.against is None else index.routing_version(order.against)
    page = index.instances_received(order.since, order.until, after=order.after, limit=order.limit)
    different = rehearsal.rehearse(index, candidate, against, page)
    return Rehearsal(len(page), different, page[-1].sha256 if len(page) == order.limit else None)


@routes.post("/api/rules/replay")
async def replay_instances(order: ToReplay, index: IndexDep, link: LinkDep) -> Replayed:
    """Run received instances under a version of the rules; what has been sent in the same form is not sent again."""
    version = await asyncio.to_thread(_chosen, index, None, order.version)
    page = await asyncio.to_thread(
        index.instances_received, order.since, order.until, after=order.after, limit=order.limit
    )
    carried = ReplayRequest(version, frozenset(order.destinations), order.again, order.trial)
    result = await replay(index, link, carried, page)
    result.next = page[-1].sha256 if len(page) == order.limit else None
    return result


def _chosen(index: Index, routing: Routing | None, version: int | None) -> RoutingVersion:
    if routing is not None:
        return RoutingVersion(0, routing, author="", created_at=None)
    return index.routing() if version is None else index.routing_version(version)
