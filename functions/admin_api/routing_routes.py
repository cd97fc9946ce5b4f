"""Destinations and rules: read, change one, or replace them all.

Every answer carries the routing's version as its ETag; every change must present it in `If-Match`, so
that two administrators never overwrite each other unknowingly.
"""

import re
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field

from admin_api.failures import ErrorBody
from admin_api.parameters import IndexDep
from admin_api.routing_edits import (
    find_destination,
    find_rule,
    with_destination,
    with_rule,
    without_destination,
    without_rule,
)
from admin_api.strict_route import StrictRoute
from bucky.destinations import Destination
from bucky.errors import Conflict
from bucky.index import Index, RoutingVersion
from bucky.names import NAME_PATTERN
from bucky.routing import Routing
from bucky.rules.model import Rule

AUTHOR = "admin-api"
CHANGED = "The routing has changed since you read it; read it again and repeat your change."
_WRITES: dict[int | str, dict[str, object]] = {status: {"model": ErrorBody} for status in (409, 412, 428)}

routes = APIRouter(tags=["routing"], route_class=StrictRoute)

Name = Annotated[str, Path(pattern=NAME_PATTERN)]


class VersionOfRouting(BaseModel):
    """One version of the routing; version 0 is the empty one nobody wrote."""

    version: int
    author: str
    created_at: datetime | None
    note: str = Field(description="How it came about, where it was a return to an earlier one.")
    document: Routing


class WrittenVersion(BaseModel):
    """The version that a change made."""

    version: int


def expected_version(
    if_match: Annotated[str | None, Header(description='The ETag of what you read, such as `"7"`.')] = None,
) -> int:
    """Return the version the client has read; answer 428 when it does not say, 412 when it cannot be."""
    if if_match is None:
        raise HTTPException(428, "Say which version you change: send its ETag as If-Match.")
    found = re.fullmatch(r'"(\d{1,9})"', if_match.strip())
    if found is None:
        raise HTTPException(412, CHANGED)
    return int(found[1])


Expected = Annotated[int, Depends(expected_version)]


@routes.get("/api/routing", response_model_exclude_none=True)
def get_routing(index: IndexDep, response: Response) -> VersionOfRouting:
    """Return the routing in force."""
    return _shown(_read(index, response))


@routes.put("/api/routing", responses=_WRITES)
def put_routing(routing: Routing, index: IndexDep, expected: Expected, response: Response) -> WrittenVersion:
    """Replace all destinations and rules at once; refused when there is nothing to send to in it."""
    routing.check_leads_somewhere()
    return _save(index, routing, expected, response)


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

    version: Annotated[int, Field(ge=0, le=2**31 - 1)]


@routes.post("/api/routing/rollback", responses=_WRITES)
def roll_back(order: Rollback, index: IndexDep, expected: Expected, response: Response) -> WrittenVersion:
    """Put an earlier version in force again, as a new version."""
    document = index.routing_version(order.version).document
    return _save(index, document, expected, response, note=f"as version {order.version}")


@routes.get("/api/destinations", response_model_exclude_none=True)
def list_destinations(index: IndexDep, response: Response) -> list[Destination]:
    """Return every destination."""
    return list(_read(index, response).document.destinations)


@routes.get("/api/destinations/{name}", response_model_exclude_none=True)
def get_destination(name: Name, index: IndexDep, response: Response) -> Destination:
    """Return one destination."""
    return find_destination(_read(index, response).document, name)


@routes.put("/api/destinations/{name}", responses=_WRITES)
def put_destination(
    name: Name, destination: Destination, index: IndexDep, expected: Expected, response: Response
) -> WrittenVersion:
    """Add a destination or replace the one of this name."""
    return _save(index, with_destination(_base(index, expected), name, destination), expected, response)


@routes.delete("/api/destinations/{name}", responses=_WRITES)
def delete_destination(name: Name, index: IndexDep, expected: Expected, response: Response) -> WrittenVersion:
    """Remove a destination that no rule names."""
    return _save(index, without_destination(_base(index, expected), name), expected, response)


@routes.get("/api/rules", response_model_exclude_none=True)
def list_rules(index: IndexDep, response: Response) -> list[Rule]:
    """Return every rule."""
    return list(_read(index, response).document.rules)


@routes.get("/api/rules/{name}", response_model_exclude_none=True)
def get_rule(name: Name, index: IndexDep, response: Response) -> Rule:
    """Return one rule."""
    return find_rule(_read(index, response).document, name)


@routes.put("/api/rules/{name}", responses=_WRITES)
def put_rule(name: Name, rule: Rule, index: IndexDep, expected: Expected, response: Response) -> WrittenVersion:
    """Add a rule or replace the one of this name."""
    return _save(index, with_rule(_base(index, expected), name, rule), expected, response)


@routes.delete("/api/rules/{name}", responses=_WRITES)
def delete_rule(name: Name, index: IndexDep, expected: Expected, response: Response) -> WrittenVersion:
    """Remove a rule."""
    return _save(index, without_rule(_base(index, expected), name), expected, response)


def _read(index: Index, response: Response) -> RoutingVersion:
    current = index.routing()
    response.headers["ETag"] = f'"{current.version}"'
    return current


def _base(index: Index, expected: int) -> Routing:
    current = index.routing()
    if current.version != expected:
        raise HTTPException(412, CHANGED)
    return current.document


def _save(index: Index, routing: Routing, expected: int, response: Response, note: str = "") -> WrittenVersion:
    try:
        version = index.save_routing(routing, expected, AUTHOR, note)
    except Conflict:
        raise HTTPException(412, CHANGED) from None
    response.headers["ETag"] = f'"{version}"'
    return WrittenVersion(version=version)


def _shown(version: RoutingVersion) -> VersionOfRouting:
    return VersionOfRouting(
        version=version.version,
        author=version.author,
        created_at=version.created_at,
        note=version.note,
        document=version.document,
    )
