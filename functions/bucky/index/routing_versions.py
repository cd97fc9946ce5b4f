"""Versions of the routing: appended, never changed."""

from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import Connection, RowMapping, select

from bucky.errors import Conflict, IndexUnavailable, NotFound
from bucky.index.database import insert_into
from bucky.index.rows import RoutingVersion
from bucky.index.schema import routing_versions
from bucky.routing.document import Routing

_NEWEST_FIRST = select(routing_versions).order_by(routing_versions.c.version.desc())


def newest(connection: Connection) -> RoutingVersion:
    """Return the version in force; version 0, which is empty, when none was ever saved."""
    found = listed(connection, limit=1)
    return found[0] if found else RoutingVersion(0, Routing(), author="", created_at=None)


def one(connection: Connection, version: int) -> RoutingVersion:
    """Return one version, the empty one nobody wrote for 0; raise `NotFound`."""
    if version == 0:
        return RoutingVersion(0, Routing(), author="", created_at=None)
    query = select(routing_versions).where(routing_versions.c.version == version)
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"there is no routing version {version}")
    return _version(row)


def listed(connection: Connection, limit: int) -> list[RoutingVersion]:
    """Return the versions, the newest first."""
    rows = connection.execute(_NEWEST_FIRST.limit(limit)).mappings()
    return [_version(row) for row in rows]


def save(
    connection: Connection, document: Routing, expected_version: int, author: str, now: datetime, note: str = ""
) -> int:
    """Append a version after `expected_version` and return its number; raise `Conflict` when that is not the newest."""
    newest_version = newest(connection).version
    insert = insert_into(connection, routing_versions).on_conflict_do_nothing(index_elements=["version"])
    row = {
        "version": expected_version + 1,
        "created_at": now,
        "author": author,
        "note": note,
        "document": document.model_dump(mode="json", by_alias=True),
    }
    returned = insert.values(row).returning(routing_versions.c.version)
    if newest_version != expected_version or connection.execute(returned).scalar() is None:
        raise Conflict(
            f"the routing changed meanwhile: it is not at version {expected_version}; read it again, then save"
        )
    return expected_version + 1


def _version(row: RowMapping) -> RoutingVersion:
    try:
        document = Routing.model_validate(row["document"])
    except ValidationError as error:
        raise IndexUnavailable(
            f"this program cannot read routing version {row['version']}, which a newer one wrote: update it"
        ) from error
    return RoutingVersion(**{**row, "document": document})
