"""What a reconciler asks the index: what is there, what stands still, and what does not add up."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import Connection, case, func, select

from bucky.index import rebuild
from bucky.index.counting import recount as recount_study
from bucky.index.delivery_rows import DeliveryRow, DeliveryState
from bucky.index.delivery_schema import deliveries, routings
from bucky.index.instances import upsert
from bucky.index.rows import IndexedInstance, KnownInstance
from bucky.index.schema import instances, series, studies

UNSETTLED = (DeliveryState.REQUESTED, DeliveryState.RETRYING, DeliveryState.FAILED)


def known(connection: Connection, study_uids: Sequence[str]) -> list[KnownInstance]:
    """Return what the index has of these studies' instances."""
    c = instances.c
    query = select(c.study_instance_uid, c.sha256, c.key, c.size, c.indexed_at)
    rows = connection.execute(query.where(c.study_instance_uid.in_(study_uids))).mappings()
    return [KnownInstance(**row) for row in rows]


def study_uids(connection: Connection, after: str, limit: int) -> list[str]:
    """Return a page of the studies' UIDs, in order."""
    c = studies.c.study_instance_uid
    return list(connection.execute(select(c).where(c > after).order_by(c).limit(limit)).scalars())


def decided(connection: Connection, digests: Iterable[str]) -> set[str]:
    """Return those of these instances that the rules were asked about."""
    wanted = list(digests)
    found: set[str] = set()
    for column in (routings.c.sha256, deliveries.c.sha256):
        found |= set(connection.execute(select(column).where(column.in_(wanted))).scalars())
    return found


def unsettled(connection: Connection, before: datetime, after: str, limit: int) -> list[DeliveryRow]:
    """Return a page, by id, of deliveries that nothing became of since a time, but for those with a time to come."""
    c = deliveries.c
    query = select(deliveries).where(c.state.in_(UNSETTLED), c.updated_at < before, c.delivery_id > after)
    query = query.where(c.due_at.is_(None))
    rows = connection.execute(query.order_by(c.delivery_id).limit(limit)).mappings()
    return [DeliveryRow(**{**row, "state": DeliveryState(row["state"])}) for row in rows]


def miscounted(connection: Connection) -> list[str]:
    """Return the studies that have a series whose counts are not those of its instances."""
    c = instances.c
    counted = (
        select(
            c.study_instance_uid,
            c.series_instance_uid,
            func.sum(case((c.quarantined, 0), else_=1)).label("current"),
            func.sum(case((c.quarantined, 1), else_=0)).label("apart"),
        )
        .group_by(c.study_instance_uid, c.series_instance_uid)
        .subquery()
    )
    same = (counted.c.study_instance_uid == series.c.study_instance_uid) & (
        counted.c.series_instance_uid == series.c.series_instance_uid
    )
    differs = (func.coalesce(counted.c.current, 0) != series.c.instance_count) | (
        func.coalesce(counted.c.apart, 0) != series.c.quarantined_count
    )
    query = select(series.c.study_instance_uid).select_from(series.outerjoin(counted, same)).where(differs)
    return sorted(set(connection.execute(query).scalars()))


def recount(connection: Connection, uids: Sequence[str]) -> None:
    """Make the counts of these studies those of their instances."""
    for uid in sorted(uids):
        recount_study(connection, uid)


def restore(connection: Connection, batch: Sequence[IndexedInstance], now: datetime) -> None:
    """Index instances that were decided on before: they are no news, and nothing is sent for them."""
    upsert(connection, batch, now, news=False)
    rebuild.count_as_routed(connection, sorted(one.received.sha256 for one in batch), now)
