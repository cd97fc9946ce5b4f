"""What functions are given, and what they made of it."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from bucky.events import InstanceStored
from bucky.index.database import insert_into
from bucky.index.delivery_schema import deliveries, delivery_members, delivery_results
from bucky.index.instances import LISTED
from bucky.index.rows import InstanceRow
from bucky.index.schema import instances

_AT_ONCE = 5000


def keep_members(connection: Connection, members: Mapping[str, Sequence[str]]) -> None:
    """Record which instances deliveries are of; what is recorded already stays."""
    rows = [{"delivery_id": name, "sha256": sha256} for name in sorted(members) for sha256 in sorted(members[name])]
    insert = insert_into(connection, delivery_members).on_conflict_do_nothing()
    for at in range(0, len(rows), _AT_ONCE):
        connection.execute(insert, rows[at : at + _AT_ONCE])


def given(connection: Connection, delivery_id: str) -> list[InstanceRow]:
    """Return the instances that a delivery to a function is of, without headers, in the order of their numbers."""
    c, m = instances.c, delivery_members.c
    several = select(m.sha256).where(m.delivery_id == delivery_id)
    only = select(deliveries.c.sha256).where(deliveries.c.delivery_id == delivery_id)
    query = select(*LISTED).where(c.sha256.in_(several.union(only)))
    order = (c.series_instance_uid, c.instance_number.nulls_last(), c.sop_instance_uid, c.sha256)
    return [InstanceRow(**row) for row in connection.execute(query.order_by(*order)).mappings()]


def keep_results(connection: Connection, results: Mapping[str, Sequence[InstanceStored]]) -> None:
    """Record what functions made, by delivery."""
    rows = [
        {"delivery_id": name, "sha256": one.sha256, "stored": one.model_dump(mode="json")}
        for name in sorted(results)
        for one in sorted(results[name], key=lambda each: each.sha256)
    ]
    insert = insert_into(connection, delivery_results).on_conflict_do_nothing()
    for at in range(0, len(rows), _AT_ONCE):
        connection.execute(insert, rows[at : at + _AT_ONCE])


def results_of(connection: Connection, delivery_id: str) -> list[InstanceStored]:
    """Return what a function made for a delivery."""
    c = delivery_results.c
    query = select(c.stored).where(c.delivery_id == delivery_id).order_by(c.sha256)
    return [InstanceStored.model_validate(stored) for stored in connection.execute(query).scalars()]
