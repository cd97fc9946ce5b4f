"""Rebuilding the index from objects, in place: readable all the while, and right wherever it was stopped.

A study is written in the order its instances were received, so the first bytes of a SOP Instance UID are
current again, and its attributes come from the same instances as before. What only the index knew (the
association, the times) is kept where there was a row; where there was none, the object's own time stands in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from sqlalchemy import Connection, RowMapping, and_, delete, func, select, update

from bucky.index import decisions_in_force as in_force
from bucky.index import patients
from bucky.index.attributes import series_attributes, study_attributes
from bucky.index.counting import NO_COUNTS, recount
from bucky.index.database import insert_into
from bucky.index.delivery_schema import routings
from bucky.index.instances import FROM_OBJECT, insert, instance_row
from bucky.index.rows import IndexedInstance
from bucky.index.schema import arrivals, instances, reindexed_studies, reindexings, series, studies

# What a row must say as its object does; anything else the bucket does not know, and it is kept.
_COMPARED = (*FROM_OBJECT, "instance_number", "rows", "columns", "number_of_frames", "header", "header_error")
# PostgreSQL takes 65,535 parameters in a statement, SQLite 32,766.
_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class InstanceRows:
    """What an instance makes of its own row, its study's and its series': plain data, made in any process."""

    instance: dict[str, Any]
    study: dict[str, Any]
    series: dict[str, Any]

    @classmethod
    def of(cls, one: IndexedInstance) -> Self:
        """Work them out; when it was indexed is said when it is."""
        return cls(
            instance_row(one, one.received.received_at), study_attributes(one.header), series_attributes(one.header)
        )


@dataclass(slots=True)
class StudyPart:
    """Some of a study's instances, in the order received; with the last part come the digests of all its objects.

    `attributes` is shared by the parts of a study and gathers what they say of it and of its series.
    """

    study_instance_uid: str
    instances: Sequence[InstanceRows]
    attributes: "StudyAttributes"
    objects: frozenset[str] | None = None


@dataclass(slots=True)
class StudyAttributes:
    """The attributes of a study and of its series, by series UID: the first value that is not null.

    `patients` are all that its `instances` current ones name, by their key.
    """

    study: dict[str, Any] = field(default_factory=dict)
    series: dict[str, dict[str, Any]] = field(default_factory=dict)
    patients: dict[str, dict[str, Any]] = field(default_factory=dict)
    instances: int = 0

    def add(self, one: InstanceRows) -> None:
        """Fill the gaps with what an instance says."""
        _fill(self.study, one.study)
        self.instances += 1
        patient = patients.patient_of(one.instance["study_instance_uid"], one.study)
        if patient is not None:
            self.patients.setdefault(patient["patient_key"], patient)
        _fill(self.series.setdefault(one.instance["series_instance_uid"], {}), one.series)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a transaction did to the rows of instances, and the digests of rows whose object is not there."""

    new: int = 0
    changed: int = 0
    same: int = 0
    missing: tuple[str, ...] = ()

    def __add__(self, other: "Rebuilt") -> "Rebuilt":
        return Rebuilt(
            self.new + other.new, self.changed + other.changed, self.same + other.same, self.missing + other.missing
        )


def begin(connection: Connection, bucket: str, now: datetime, *, restart: bool) -> tuple[datetime, set[str]]:
    """Return when this reindexing was begun and the studies it has done; begin one unless one was stopped."""
    if restart:
        connection.execute(delete(reindexings))
    started = connection.execute(select(reindexings.c.started_at).where(reindexings.c.bucket == bucket)).scalar()
    if started is None:
        connection.execute(delete(reindexings))
        connection.execute(delete(reindexed_studies))
        connection.execute(insert_into(connection, reindexings), [{"bucket": bucket, "started_at": now}])
        return now, set()
    return started, set(connection.execute(select(reindexed_studies.c.study_instance_uid)).scalars())


def under_way(connection: Connection) -> datetime | None:
    """Return when a reindexing was begun that has not ended."""
    started: datetime | None = connection.execute(select(func.min(reindexings.c.started_at))).scalar()
    return started


def received_times(connection: Connection, study_uids: Sequence[str]) -> dict[str, datetime]:
    """Return when each known instance of these studies was received, by digest."""
    c = instances.c
    return {
        row.sha256: row.received_at
        for part in _parts(study_uids)
        for row in connection.execute(select(c.sha256, c.received_at).where(c.study_instance_uid.in_(part)))
    }


def write(
    connection: Connection, parts: Sequence[StudyPart], started_at: datetime, now: datetime, *, prune: bool
) -> Rebuilt:
    """Make the rows what the objects say, in one transaction; finish the studies whose last part this is."""
    done = Rebuilt()
    for part in sorted(parts, key=lambda one: one.study_instance_uid):
        done += _write_instances(connection, part, now)
        if part.objects is not None:
            missing = _missing(connection, part.study_instance_uid, part.objects, started_at)
            if prune:
                _remove(connection, missing)
            _write_parents(connection, part)
            done += Rebuilt(missing=tuple(missing))
            connection.execute(
                insert_into(connection, reindexed_studies).on_conflict_do_nothing(),
                [{"study_instance_uid": part.study_instance_uid}],
            )
    return done


def finish(connection: Connection, started_at: datetime, *, prune: bool) -> list[str]:
    """End the reindexing; return the digests of rows whose whole study is not in the bucket."""
    c = instances.c
    in_bucket = select(reindexed_studies.c.study_instance_uid)
    gone = select(c.sha256, c.study_instance_uid).where(
        c.study_instance_uid.not_in(in_bucket), c.indexed_at < started_at
    )
    rows = connection.execute(gone).all()
    if prune:
        _remove(connection, [row.sha256 for row in rows])
        for uid in sorted({row.study_instance_uid for row in rows}):
            recount(connection, uid)
    connection.execute(delete(reindexings))
    connection.execute(delete(reindexed_studies))
    return [row.sha256 for row in rows]


def _write_instances(connection: Connection, part: StudyPart, now: datetime) -> Rebuilt:
    if not part.instances:
        return Rebuilt()
    known = _known(connection, [one.instance["sha256"] for one in part.instances])
    fresh, changes = [], []
    for one in part.instances:
        row, old = one.instance | {"indexed_at": now}, known.get(one.instance["sha256"])
        if old is None:
            fresh.append(row)
        elif any(old[name] != row[name] for name in _COMPARED):
            changes.append(row)
    _make_parents(connection, part, now)
    current = insert(connection, [row | {"quarantined": False} for row in fresh])
    insert(connection, [row | {"quarantined": True} for row in fresh if row["sha256"] not in current])
    for row in changes:
        values = {name: row[name] for name in _COMPARED}
        connection.execute(update(instances).where(instances.c.sha256 == row["sha256"]).values(values))
    count_as_routed(connection, sorted(current), now)
    for digest in _current(connection, part):
        part.attributes.add(digest)
    return Rebuilt(len(fresh), len(changes), len(part.instances) - len(fresh) - len(changes))


def _current(connection: Connection, part: StudyPart) -> list[InstanceRows]:
    """Return the instances of a part that are current, once it is as was decided."""
    uids = {one.instance["sop_instance_uid"] for one in part.instances}
    decided = in_force.newest(connection, uids)
    in_force.enforce(connection, decided)
    digests = [one.instance["sha256"] for one in part.instances]
    query = select(instances.c.sha256).where(instances.c.sha256.in_(digests), ~instances.c.quarantined)
    current = set(connection.execute(query).scalars())
    found = []
    for one in part.instances:
        decision = decided.get(one.instance["sop_instance_uid"])
        # What was accepted in its place may come later in the study, or in another one.
        if one.instance["sha256"] in current and (
            decision is None or decision.current_sha256 == one.instance["sha256"]
        ):
            found.append(one)
    return found


def _known(connection: Connection, digests: Sequence[str]) -> dict[str, RowMapping]:
    rows = connection.execute(select(instances).where(instances.c.sha256.in_(digests))).mappings()
    return {row["sha256"]: row for row in rows}


def _make_parents(connection: Connection, part: StudyPart, now: datetime) -> None:
    """Make the rows that instances refer to, unless they are there; `_write_parents` fills them in."""
    uid, first = part.study_instance_uid, part.instances[0].instance["received_at"]
    rows = [
        {"study_instance_uid": uid, "series_instance_uid": one, **NO_COUNTS}
        for one in sorted({each.instance["series_instance_uid"] for each in part.instances})
    ]
    connection.execute(insert_into(connection, series).on_conflict_do_nothing(), rows)
    row = {"study_instance_uid": uid, "first_received_at": first, "last_instance_at": now}
    connection.execute(insert_into(connection, studies).on_conflict_do_nothing(), [row])
    # What is rebuilt was stable before: only what arrives from now on is news.
    settled = {"last_instance_at": now, "expected_count": None, "revision": 0, "quiet_seconds": 0.0, "open": False}
    arrived = [
        {"study_instance_uid": uid, "series_instance_uid": one["series_instance_uid"], **settled} for one in rows
    ]
    arrived.append({"study_instance_uid": uid, "series_instance_uid": "", **settled})
    connection.execute(insert_into(connection, arrivals).on_conflict_do_nothing(), arrived)


def count_as_routed(connection: Connection, digests: Sequence[str], now: datetime) -> None:
    """Note that the rules need not be asked: rebuilding sends nothing again."""
    rows = [{"sha256": one, "rule_version": 0, "destinations": 0, "routed_at": now} for one in digests]
    if rows:
        connection.execute(insert_into(connection, routings).on_conflict_do_nothing(), rows)


def _write_parents(connection: Connection, part: StudyPart) -> None:
    uid = part.study_instance_uid
    for series_uid, values in sorted(part.attributes.series.items()):
        one = and_(series.c.study_instance_uid == uid, series.c.series_instance_uid == series_uid)
        connection.execute(update(series).where(one).values(values))
    if part.attributes.study:
        its_study = studies.c.study_instance_uid == uid
        connection.execute(update(studies).where(its_study).values(part.attributes.study))
        gathered = part.attributes
        patients.replace(connection, uid, list(gathered.patients.values()), gathered.instances)
    recount(connection, uid)


def _missing(connection: Connection, study_uid: str, objects: frozenset[str], started_at: datetime) -> list[str]:
    c = instances.c
    known = select(c.sha256).where(c.study_instance_uid == study_uid, c.indexed_at < started_at)
    return sorted(set(connection.execute(known).scalars()) - objects)


def _remove(connection: Connection, digests: Sequence[str]) -> None:
    for part in _parts(sorted(digests)):
        connection.execute(delete(routings).where(routings.c.sha256.in_(part)))
        connection.execute(delete(instances).where(instances.c.sha256.in_(part)))


def _fill(values: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if values.get(name) is None:
            values[name] = value


def _parts(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[at : at + _AT_ONCE] for at in range(0, len(values), _AT_ONCE))
