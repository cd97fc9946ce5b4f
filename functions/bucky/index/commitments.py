"""Deliveries that a destination took and has yet to commit to keeping (PS3.4 Annex J), and those that wait too long.

A transaction is a UID in the rows of its deliveries: nothing of it is kept elsewhere, so no restart loses it.
A row that is asked for in a new transaction, or is sent again, is not in the old one any more: what comes of
that then changes nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, update

from bucky.index import delivery_steps
from bucky.index.deliveries import PENDING, as_row, move
from bucky.index.delivery_rows import DeliveryRow, DeliveryState, Reference, Settlement
from bucky.index.delivery_schema import deliveries
from bucky.index.schema import instances

UNCOMMITTED = frozenset({DeliveryState.UNCOMMITTED})
COMMITTED = "the destination committed to keeping it"


def of(connection: Connection, uid: str) -> list[DeliveryRow]:
    """Return the deliveries whose last transaction this is, whatever became of them."""
    return _rows(connection, select(deliveries).where(deliveries.c.commitment_uid == uid))


def references(connection: Connection, uid: str) -> list[Reference]:
    """Return each instance to be asked about in a transaction, once; those that the index lost are left out."""
    d, i = deliveries.c, instances.c
    query = select(i.sop_class_uid, i.sop_instance_uid).join(deliveries, d.sha256 == i.sha256)
    query = query.where(_waits_in(uid)).distinct().order_by(i.sop_instance_uid)
    return [Reference(*row) for row in connection.execute(query)]


def asked(connection: Connection, uid: str, due_at: datetime, said: str, at: datetime) -> None:
    """Record that a transaction was asked for, when an answer is due, and what is to be said of it."""
    c = deliveries.c
    values = {"commitment_asked_at": at, "commitment_asks": c.commitment_asks + 1, "due_at": due_at}
    connection.execute(update(deliveries).where(_waits_in(uid)).values(**values, commitment=said, updated_at=at))


def note(connection: Connection, uid: str, said: str) -> None:
    """Record what is to be said of a transaction, for as long as it waits."""
    connection.execute(update(deliveries).where(_waits_in(uid)).values(commitment=said))


def settle(
    connection: Connection,
    uid: str,
    committed: Collection[str],
    failed: Mapping[str, str],
    sends: int,
    due_at: datetime,
    at: datetime,
) -> Settlement:
    """Record what a destination said of the instances (their UIDs) of a transaction; `failed` has the reasons.

    One that it does not commit to is to be sent again at `due_at`, unless it was sent `sends` times.
    """
    delivered: list[str] = []
    again: list[str] = []
    given_up: list[str] = []
    more: dict[str, Any]
    for row in of(connection, uid):
        name, waits = row.delivery_id, _waits_in(uid)
        if row.sop_instance_uid in failed:
            reason = failed[row.sop_instance_uid]
            if row.sends < sends:
                more = {"waiting_since": at, "due_at": due_at}
                to = DeliveryState.RETRYING
            else:
                reason, more = f"{reason}; sent {row.sends} times", {"due_at": None}
                to = DeliveryState.FAILED
            if move(connection, name, to, at, waits, since=UNCOMMITTED, reason=reason, commitment="", **more):
                (again if to is DeliveryState.RETRYING else given_up).append(name)
                delivery_steps.record(connection, name, to, at, reason)
        elif row.sop_instance_uid in committed:
            done = {"completed_at": at, "due_at": None, "commitment": COMMITTED}
            if move(connection, name, DeliveryState.DELIVERED, at, waits, since=UNCOMMITTED, **done):
                delivered.append(name)
    return Settlement(*(tuple(_by_id(connection, names)) for names in (delivered, again, given_up)))


def due(connection: Connection, at: datetime, limit: int) -> list[DeliveryRow]:
    """Return deliveries whose commitment is late, or which are to be sent again, those due first first."""
    c = deliveries.c
    query = select(deliveries).where(c.due_at <= at, c.state.in_([DeliveryState.UNCOMMITTED, DeliveryState.RETRYING]))
    return _rows(connection, query.order_by(c.due_at, c.delivery_id).limit(limit))


def put_off(connection: Connection, rows: Sequence[DeliveryRow], due_at: datetime | None) -> None:
    """Look after these at another time, or not at all, unless something became of them meanwhile."""
    c = deliveries.c
    for row in rows:
        same = (c.delivery_id == row.delivery_id) & (c.state == row.state) & (c.due_at == row.due_at)
        connection.execute(update(deliveries).where(same).values(due_at=due_at))


def ask_anew(
    connection: Connection, rows: Sequence[DeliveryRow], uid: str, due_at: datetime, said: str, at: datetime
) -> list[str]:
    """Move deliveries that still wait as they did to a new transaction; return their ids."""
    moved = []
    for row in rows:
        change = update(deliveries).where(deliveries.c.delivery_id == row.delivery_id, _waits_in(row.commitment_uid))
        values = {"commitment_uid": uid, "commitment_asked_at": None, "due_at": due_at, "commitment": said}
        if connection.execute(change.values(**values, updated_at=at)).rowcount:
            moved.append(row.delivery_id)
            delivery_steps.record(connection, row.delivery_id, DeliveryState.UNCOMMITTED, at, said)
    return moved


def give_up(
    connection: Connection, reasons: Mapping[str, str], states: Collection[DeliveryState], at: datetime
) -> list[str]:
    """Let deliveries fail, by their ids, each for its reason, if they are in one of these states; return which were."""
    moved = []
    for name, reason in sorted(reasons.items()):
        if move(connection, name, DeliveryState.FAILED, at, since=states, reason=reason, due_at=None, commitment=""):
            moved.append(name)
            delivery_steps.record(connection, name, DeliveryState.FAILED, at, reason)
    return moved


def waiting_too_long(
    connection: Connection, before: datetime, destination: str | None, others: Collection[str], limit: int
) -> list[DeliveryRow]:
    """Return deliveries that wait to be sent since before a time: a destination's, or those to none of the others."""
    c = deliveries.c
    since = func.coalesce(c.waiting_since, c.redriven_at, c.requested_at)
    # No delivery waits since before it was requested: that is what there is an index for.
    query = select(deliveries).where(c.state.in_(PENDING), c.requested_at < before, since < before)
    query = query.where(_goes_to(destination, others))
    return _rows(connection, query.order_by(c.requested_at, c.delivery_id).limit(limit))


def last_tried(connection: Connection, destination: str | None, others: Collection[str]) -> datetime | None:
    """Return when a delivery to a destination, or to none of the others, last came back to be tried again."""
    c = deliveries.c
    query = select(func.max(c.updated_at)).where(c.state == DeliveryState.RETRYING, _goes_to(destination, others))
    return connection.execute(query).scalar()


def _goes_to(destination: str | None, others: Collection[str]) -> ColumnElement[bool]:
    c = deliveries.c
    return c.destination == destination if destination is not None else c.destination.not_in(others)


def _waits_in(uid: str | None) -> ColumnElement[bool]:
    return (deliveries.c.commitment_uid == uid) & (deliveries.c.state == DeliveryState.UNCOMMITTED)


def _by_id(connection: Connection, names: Sequence[str]) -> list[DeliveryRow]:
    return _rows(connection, select(deliveries).where(deliveries.c.delivery_id.in_(names))) if names else []


def _rows(connection: Connection, query: Select[tuple[object, ...]]) -> list[DeliveryRow]:
    return [as_row(row) for row in connection.execute(query).mappings()]
