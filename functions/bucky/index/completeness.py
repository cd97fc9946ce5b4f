"""Studies and series on their way to being stable: which are, and the record of when they were.

A declaration and its event are one row, written in one transaction and published afterwards: whatever is
killed in between, the event is published, under the same id.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select, update

from bucky.cloudevents import CloudEvent
from bucky.events import SeriesStable, StableSeries, StudyStable, payload_of
from bucky.index.database import insert_into
from bucky.index.rows import Arrival, Declaration
from bucky.index.schema import arrivals, instances, revisions, series
from bucky.trace import within

MOST_CHANGED = 500
SOURCE = "/bucky/keeper"
_KEY = ("study_instance_uid", "series_instance_uid", "revision", "quiet_seconds")


def still_open(connection: Connection, quiet_since: datetime, after: Arrival | None, limit: int) -> list[Arrival]:
    """Return a page of what got its last instance before a time, the longest ago first."""
    a = arrivals.c
    mine = series.c.study_instance_uid == a.study_instance_uid
    of_series = (a.series_instance_uid == "") | (series.c.series_instance_uid == a.series_instance_uid)
    count = select(func.coalesce(func.sum(series.c.instance_count), 0)).where(mine, of_series).scalar_subquery()
    order = (a.last_instance_at, a.study_instance_uid, a.series_instance_uid)
    query = select(arrivals, count.label("instance_count")).where(a.open, a.last_instance_at <= quiet_since)
    if after is not None:
        last = (after.last_instance_at, after.study_instance_uid, after.series_instance_uid)
        query = query.where(_after(order, last))
    rows = connection.execute(query.order_by(*order).limit(limit)).mappings()
    return [Arrival(**{name: row[name] for name in Arrival.__dataclass_fields__}) for row in rows]


def declare(connection: Connection, one: Declaration, now: datetime) -> bool:
    """Declare a study or series stable, unless something came since it was looked at; return whether it was so."""
    a, seen = arrivals.c, one.arrival
    row = (a.study_instance_uid == seen.study_instance_uid) & (a.series_instance_uid == seen.series_instance_uid)
    as_seen = (a.last_instance_at == seen.last_instance_at) & (a.quiet_seconds == seen.quiet_seconds) & a.open
    revision = case((a.quiet_seconds == 0, a.revision + 1), else_=a.revision)
    change = update(arrivals).where(row, as_seen)
    change = change.values(revision=revision, quiet_seconds=one.quiet_seconds, open=not one.is_longest)
    number = connection.execute(change.returning(arrivals.c.revision)).scalar()
    if number is None:
        return False
    rows = _series(connection, seen)
    payload = _facts(one, number, rows, _counts_before(connection, seen, number), now)
    record = {
        "study_instance_uid": seen.study_instance_uid,
        "series_instance_uid": seen.series_instance_uid,
        "revision": number,
        "quiet_seconds": one.quiet_seconds,
        "stable_at": now,
        "reason": one.reason,
        "trace_id": _trace(connection, seen),
    }
    event = CloudEvent.of(payload, source=SOURCE, traceparent=within(record["trace_id"]))
    counts = {each.series_instance_uid: each.instance_count for each in rows}
    written = record | {"event": event.model_dump(mode="json", exclude_none=True), "counts": counts}
    connection.execute(insert_into(connection, revisions), [written])
    return True


def close(connection: Connection, seen: Arrival) -> None:
    """Note that nobody waits for a longer quiet of this."""
    a = arrivals.c
    row = (a.study_instance_uid == seen.study_instance_uid) & (a.series_instance_uid == seen.series_instance_uid)
    as_seen = (a.last_instance_at == seen.last_instance_at) & (a.quiet_seconds == seen.quiet_seconds)
    connection.execute(update(arrivals).where(row, as_seen).values(open=False))


def unpublished(connection: Connection, limit: int) -> list[CloudEvent]:
    """Return the events of declarations that the broker may not have, the oldest first."""
    v = revisions.c
    query = select(v.event).where(v.published_at.is_(None)).order_by(v.stable_at, v.revision, v.quiet_seconds)
    return [CloudEvent.model_validate(event) for event in connection.execute(query.limit(limit)).scalars()]


def published(connection: Connection, events: Sequence[CloudEvent], now: datetime) -> None:
    """Record that the broker has these events."""
    for event in events:
        payload = payload_of(event)
        if isinstance(payload, StudyStable | SeriesStable):
            values = payload.model_dump() | {"series_instance_uid": payload.series_uid()}
            row = [revisions.c[name] == values[name] for name in _KEY]
            connection.execute(update(revisions).where(*row).values(published_at=now))


def _facts(
    one: Declaration, revision: int, rows: Sequence[Any], before: Mapping[str, int], now: datetime
) -> StudyStable | SeriesStable:
    seen = one.arrival
    changed = [
        StableSeries(
            series_instance_uid=row.series_instance_uid,
            modality=row.modality,
            instance_count=row.instance_count,
            added=row.instance_count - before.get(row.series_instance_uid, 0),
        )
        for row in rows
    ]
    common: dict[str, Any] = {
        "study_instance_uid": seen.study_instance_uid,
        "revision": revision,
        "quiet_seconds": one.quiet_seconds,
        "is_default": one.is_default,
        "stable_at": now,
        "last_instance_at": seen.last_instance_at,
        "reason": one.reason,
        "instance_count": sum(row.instance_count for row in rows),
        "added": sum(each.added for each in changed),
    }
    if seen.series_instance_uid:
        modality = next((row.modality for row in rows), None)
        return SeriesStable(**common, series_instance_uid=seen.series_instance_uid, modality=modality)
    return StudyStable(
        **common,
        modalities=tuple(sorted({row.modality for row in rows if row.modality})),
        series_count=sum(1 for row in rows if row.instance_count),
        quarantined_count=sum(row.quarantined_count for row in rows),
        changed_series=tuple(each for each in changed if each.added)[:MOST_CHANGED],
    )


def _series(connection: Connection, seen: Arrival) -> list[Any]:
    s = series.c
    query = select(s.series_instance_uid, s.modality, s.instance_count, s.quarantined_count)
    query = query.where(s.study_instance_uid == seen.study_instance_uid).order_by(s.series_instance_uid)
    if seen.series_instance_uid:
        query = query.where(s.series_instance_uid == seen.series_instance_uid)
    return list(connection.execute(query).all())


def _counts_before(connection: Connection, seen: Arrival, revision: int) -> dict[str, int]:
    """Return the counts, by series, of the last revision before this one."""
    v = revisions.c
    query = select(v.counts).where(
        v.study_instance_uid == seen.study_instance_uid,
        v.series_instance_uid == seen.series_instance_uid,
        v.revision < revision,
    )
    counts: dict[str, int] | None = connection.execute(query.order_by(v.revision.desc()).limit(1)).scalar()
    return counts or {}


def _trace(connection: Connection, seen: Arrival) -> str | None:
    """Return the trace of the last instance: the one that made it complete."""
    i = instances.c
    query = select(i.trace_id).where(i.study_instance_uid == seen.study_instance_uid)
    if seen.series_instance_uid:
        query = query.where(i.series_instance_uid == seen.series_instance_uid)
    trace: str | None = connection.execute(query.order_by(i.indexed_at.desc(), i.sha256).limit(1)).scalar()
    return trace


def _after(columns: Sequence[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """Compare a row with another, column by column."""
    condition: ColumnElement[bool] = columns[-1] > values[-1]
    for column, value in zip(reversed(columns[:-1]), reversed(values[:-1]), strict=True):
        condition = (column > value) | ((column == value) & condition)
    return condition
