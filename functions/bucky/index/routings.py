"""Which instances the rules were asked about, under which version, and how many destinations that made."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, select

from bucky.index.database import insert_into
from bucky.index.delivery_schema import routings
from bucky.index.instances import LISTED
from bucky.index.rows import InstanceRow, Routed
from bucky.index.schema import instances


def record(connection: Connection, routed: Sequence[Routed], now: datetime) -> None:
    """Record what the rules said last of each instance."""
    if not routed:
        return
    rows = {one.sha256: one for one in routed}
    insert = insert_into(connection, routings)
    values = ("rule_version", "destinations", "routed_at", "matched")
    statement = insert.on_conflict_do_update(
        index_elements=["sha256"], set_={name: insert.excluded[name] for name in values}
    )
    connection.execute(
        statement,
        [
            {
                "sha256": digest,
                "rule_version": rows[digest].rule_version,
                "destinations": rows[digest].destinations,
                "routed_at": now,
                "matched": rows[digest].matched,
            }
            for digest in sorted(rows)
        ],
    )


def not_routed(connection: Connection, before: datetime, after: str, limit: int) -> list[InstanceRow]:
    """Return a page, by digest, of instances indexed before a time that the rules were never asked about."""
    c = instances.c
    asked = select(routings.c.sha256).where(routings.c.sha256 == c.sha256).exists()
    query = select(*LISTED).where(~asked, ~c.quarantined, c.indexed_at < before, c.sha256 > after)
    return [InstanceRow(**row) for row in connection.execute(query.order_by(c.sha256).limit(limit)).mappings()]
