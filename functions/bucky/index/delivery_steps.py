"""What became of a delivery on its way; a failure that repeats itself is one row, counted."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, func, select, update

from bucky.index.database import insert_into
from bucky.index.delivery_rows import DeliveryState
from bucky.index.delivery_schema import deliveries, delivery_steps

REDRIVEN = "redriven"


def record(
    connection: Connection,
    delivery_id: str,
    outcome: str,
    at: datetime,
    reason: str = "",
    detail: str = "",
    *,
    times: int = 1,
) -> None:
    """Add a step, or count it when it is the same as the last; `times` is 0 for what was no attempt."""
    c = delivery_steps.c
    last = select(func.max(c.step_id)).where(c.delivery_id == delivery_id).scalar_subquery()
    same = (c.step_id == last) & (c.outcome == outcome) & (c.reason == reason) & (c.detail == detail)
    again = update(delivery_steps).where(same).values(last_at=at, times=c.times + times)
    if connection.execute(again).rowcount:
        return
    row = {"delivery_id": delivery_id, "outcome": outcome, "reason": reason, "detail": detail}
    connection.execute(insert_into(connection, delivery_steps), [row | {"first_at": at, "last_at": at, "times": times}])


def keep_successes(connection: Connection, delivery_ids: Sequence[str]) -> None:
    """Record what was delivered before its row forgets it: it is about to be sent again."""
    c = deliveries.c
    done = select(c.delivery_id, c.completed_at, c.reason, c.detail).where(
        c.delivery_id.in_(delivery_ids), c.state == DeliveryState.DELIVERED
    )
    for row in connection.execute(done).all():
        record(connection, row.delivery_id, DeliveryState.DELIVERED, row.completed_at, row.reason, row.detail)
