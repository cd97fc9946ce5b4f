"""What somebody should look at: deliveries by state, instances that no rule matched, and open conflicts.

Each is one query on an index of its own, and costs what there is to see, not what there is.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Subquery, exists, func, select

from bucky.index.delivery_rows import Backlog, DeliveryState
from bucky.index.delivery_schema import deliveries, delivery_members, routings
from bucky.index.rows import Noticed
from bucky.index.schema import instances

SETTLED = (DeliveryState.DELIVERED, DeliveryState.DISMISSED)
NOT_SETTLED = tuple(state for state in DeliveryState if state not in SETTLED)
MOST_COUNTED = 10_000


def backlog(connection: Connection) -> list[Backlog]:
    """Return how many deliveries are not made, by destination and state, and since when the first of them is not."""
    c = deliveries.c
    asked_at = func.coalesce(c.waiting_since, c.redriven_at, c.requested_at)
    query = select(c.destination, c.state, func.count(), func.min(asked_at, type_=c.requested_at.type))
    query = query.where(c.state.in_(NOT_SETTLED)).group_by(c.destination, c.state)
    return [
        Backlog(destination, DeliveryState(state), count, since)
        for destination, state, count, since in connection.execute(query.order_by(c.destination, c.state))
    ]


def unmatched(connection: Connection, since: datetime, before: datetime) -> Noticed:
    """Return how many instances, at most `MOST_COUNTED`, no rule matched in a time, and that go nowhere since."""
    c = routings.c
    goes = exists().where(deliveries.c.sha256 == c.sha256)
    among = exists().where(delivery_members.c.sha256 == c.sha256)
    found = (
        select(c.routed_at)
        .where(~c.matched, c.routed_at >= since, c.routed_at < before, ~goes, ~among)
        .order_by(c.routed_at)
        .limit(MOST_COUNTED)
        .subquery()
    )
    return _noticed(connection, found, found.c.routed_at)


def conflicts(connection: Connection) -> Noticed:
    """Return how many instances nobody decided about that came with other content, and when the first of them did."""
    c = instances.c
    open_ones = select(c.received_at).where(c.quarantined, c.decision.is_(None))
    found = open_ones.order_by(c.received_at).limit(MOST_COUNTED).subquery()
    return _noticed(connection, found, found.c.received_at)


def _noticed(connection: Connection, found: Subquery, at: ColumnElement[datetime]) -> Noticed:
    count, since = connection.execute(select(func.count(), func.min(at, type_=at.type)).select_from(found)).one()
    return Noticed(count, since)
