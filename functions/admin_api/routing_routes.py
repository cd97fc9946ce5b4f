"""Destinations and rules: read, change one, or replace them all.

Every answer carries the routing's version as its ETag; every change must present it in `If-Match`, so
that two administrators never overwrite each other unknowingly.
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from admin_api.parameters import IndexDep, PlacesDep
from admin_api.routing_edits import (
    find_destination,
    find_rule,
    with_destination,
    with_rule,
    without_destination,
    without_rule,
)
from admin_api.routing_effect import RoutingEffect, effect_of
from admin_api.routing_writing import WRITES, WritingDep, WrittenVersion, check_places
from admin_api.strict_route import StrictRoute
from bucky.index import Index, RoutingVersion
from bucky.routing.destinations import Destination
from bucky.routing.document import Routing
from bucky.routing.rules import Rule
from bucky.text.names import NAME_PATTERN

routes = APIRouter(tags=["routing"], route_class=StrictRoute)

Name = Annotated[str, Path(pattern=NAME_PATTERN)]


class VersionOfRouting(BaseModel):
    """One version of the routing; version 0 is the empty one nobody wrote."""

    version: int
    author: str
    created_at: datetime | None = Field(None, description="Left out for version 0.")
    note: str = Field(description="How it came about, where it was a return to an earlier one.")
    document: Routing


@routes.get("/api/routing", response_model_exclude_none=True)
def get_routing(index: IndexDep, response: Response) -> VersionOfRouting:
    """Return the routing in force."""
    return _shown(_read(index, response))


@routes.put("/api/routing", responses=WRITES)
def put_routing(routing: Routing, writing: WritingDep) -> WrittenVersion:
    """Replace all destinations and rules at once; refused when there is nothing to send to in it."""
    routing.check_leads_somewhere()
    return writing.save(routing)


@routes.post("/api/routing/effect")
def show_effect(routing: Routing, index: IndexDep, places: PlacesDep) -> RoutingEffect:
    """Say what a routing would change, which destinations it stops, and how many deliveries it ends; write nothing.

    Refused when a destination may not be where it is, as putting it would be.
    """
    base = index.routing().document
    check_places(places, [one for one in routing.destinations if one not in base.destinations])
    return effect_of(base, routing, index.backlog())


@routes.get("/api/routing/versions", response_model_exclude_none=True)
def list_versions(index: IndexDep, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> list[VersionOfRouting]:
    """Return the versions of the routing, the latest first."""
    return [_shown(version) for version in index.routing_versions(limit=limit)]


@routes.get("/api/routing/versions/{version}", response_model_exclude_none=True)
def get_version(index: IndexDep, version: Annotated[int, Path(ge=0, le=2**31 - 1)]) -> VersionOfRouting:
    """Return one version of the routing."""
    return _shown(index.routing_version(version))


class Rollback(BaseModel):
    """Which version to return to."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[int, Field(ge=0, le=2**31 - 1)]


@routes.post("/api/routing/rollback", responses=WRITES)
def roll_back(order: Rollback, writing: WritingDep) -> WrittenVersion:
    """Put an earlier version in force again, as a new version."""
    document = writing.index.routing_version(order.version).document
    return writing.save(document, note=f"as version {order.version}")


@routes.get("/api/destinations", response_model_exclude_none=True)
def list_destinations(index: IndexDep, response: Response) -> list[Destination]:
    """Return every destination."""
    return list(_read(index, response).document.destinations)


@routes.get("/api/destinations/{name}", response_model_exclude_none=True)
def get_destination(name: Name, index: IndexDep, response: Response) -> Destination:
    """Return one destination."""
    return find_destination(_read(index, response).document, name)


@routes.put("/api/destinations/{name}", responses=WRITES)
def put_destination(name: Name, destination: Destination, writing: WritingDep) -> WrittenVersion:
    """Add a destination or replace the one of this name."""
    return writing.save(with_destination(writing.base(), name, destination))


@routes.delete("/api/destinations/{name}", responses=WRITES)
def delete_destination(name: Name, writing: WritingDep) -> WrittenVersion:
    """Remove a destination that no rule names."""
    return writing.save(without_destination(writing.base(), name))


@routes.get("/api/rules", response_model_exclude_none=True)
def list_rules(index: IndexDep, response: Response) -> list[Rule]:
    """Return every rule."""
    return list(_read(index, response).document.rules)


@routes.get("/api/rules/{name}", response_model_exclude_none=True)
def get_rule(name: Name, index: IndexDep, response: Response) -> Rule:
    """Return one rule."""
    return find_rule(_read(index, response).document, name)


@routes.put("/api/rules/{name}", responses=WRITES)
def put_rule(name: Name, rule: Rule, writing: WritingDep) -> WrittenVersion:
    """Add a rule or replace the one of this name."""
    return writing.save(with_rule(writing.base(), name, rule))


@routes.delete("/api/rules/{name}", responses=WRITES)
def delete_rule(name: Name, writing: WritingDep) -> WrittenVersion:
    """Remove a rule."""
    return writing.save(without_rule(writing.base(), name))


def _read(index: Index, response: Response) -> RoutingVersion:
    current = index.routing()
    response.headers["ETag"] = f'"{current.version}"'
    return current


def _shown(version: RoutingVersion) -> VersionOfRouting:
    return VersionOfRouting(
        version=version.version,
        author=version.author,
        created_at=version.created_at,
        note=version.note,
        document=version.document,
    )
