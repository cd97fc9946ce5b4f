"""Writing instances: one transaction for a batch, right under duplicates and under concurrent batches.

The first bytes stored under a SOP Instance UID are current; other bytes that come later are kept but
quarantined. The partial unique index `instances_current` decides who was first.

Rows are written in the order of their keys, and tables in the order instances, series, studies, so two
batches never wait for each other in a circle.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, or_, select, update

from bucky.errors import NotFound
from bucky.index import decisions_in_force as in_force
from bucky.index.attributes import decode_header, encode_header, instance_attributes
from bucky.index.counting import recount
from bucky.index.database import insert_into
from bucky.index.parents import record_arrivals
from bucky.index.rows import IndexedInstance, InstanceRow, UpsertOutcome, UpsertResult
from bucky.index.schema import instances

# A value that cannot be decoded is no damage; what ends too early, or leads nowhere, is.
DAMAGED = and_(instances.c.header_error.is_not(None), instances.c.header_error.not_like("not decodable%"))
_IS_DAMAGED = DAMAGED.label("damaged")
WHOLE = [
    *(column for column in instances.c if column.name != "quarantined"),
    instances.c.quarantined.label("conflict"),
    _IS_DAMAGED,
]
LISTED = [column for column in WHOLE if column.name != "header"]
_RECEIVED = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "sha256",
    "size",
    "bucket",
    "key",
    "calling_aet",
    "called_aet",
    "source_address",
    "association_id",
    "received_at",
    "listener",
    "processed",
)
# What the object itself says of its instance: all else that an event carries is kept from the first event.
FROM_OBJECT = (
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "sha256",
    "size",
    "bucket",
    "key",
    "processed",
)


def upsert(
    connection: Connection, batch: Sequence[IndexedInstance], now: datetime, *, news: bool = True
) -> list[UpsertResult]:
    """Index a batch; return one result for each instance, in the batch's order. `news` opens their studies."""
    if not batch:
        return []
    by_digest = {one.received.sha256: one for one in reversed(batch)}  # the first of equals
    ordered = sorted(by_digest.values(), key=_first_come)
    rows = {one.received.sha256: instance_row(one, now) for one in ordered}
    current = insert(connection, [row | {"quarantined": False} for row in rows.values()])
    others = [row | {"quarantined": True} for digest, row in rows.items() if digest not in current]
    quarantined = insert(connection, others)
    _complete(connection, [row for digest, row in rows.items() if digest not in current | quarantined])
    record_arrivals(
        connection,
        current=[one for one in ordered if one.received.sha256 in current],
        quarantined=[one for one in ordered if one.received.sha256 in quarantined],
        now=now,
        news=news,
    )
    if quarantined:
        # A row that was lost comes back as it was decided, not as it came.
        for uid in sorted(in_force.enforce(connection, {row["sop_instance_uid"] for row in others})):
            recount(connection, uid)
    holders = _holders(connection, {one.received.sop_instance_uid for one in ordered})
    return [_result(one, holders, current) for one in batch]


def by_digest(connection: Connection, digests: Iterable[str]) -> dict[str, InstanceRow]:
    """Return the instances with these digests, each with its header."""
    rows = connection.execute(select(*WHOLE).where(instances.c.sha256.in_(list(digests)))).mappings()
    return {row["sha256"]: _with_header(row) for row in rows}


def one(connection: Connection, sha256: str) -> InstanceRow:
    """Return the instance with this digest and its header; raise `NotFound`."""
    found = by_digest(connection, [sha256])
    if sha256 not in found:
        raise NotFound("the index has no instance with this digest")
    return found[sha256]


def received_between(
    connection: Connection, since: datetime, until: datetime, after: str | None, limit: int
) -> list[InstanceRow]:
    """Return a page of the current instances received from `since` to before `until`, with headers, the first first."""
    c = instances.c
    query = select(*WHOLE).where(~c.quarantined, c.received_at >= since, c.received_at < until)
    if after is not None:
        last = one(connection, after)
        query = query.where(
            or_(c.received_at > last.received_at, and_(c.received_at == last.received_at, c.sha256 > after))
        )
    rows = connection.execute(query.order_by(c.received_at, c.sha256).limit(limit)).mappings()
    return [_with_header(row) for row in rows]


def headers_of_study(
    connection: Connection, study_instance_uid: str, series_instance_uid: str | None, after: str, limit: int
) -> list[InstanceRow]:
    """Return a page of the current instances of a study or series, with headers, by digest."""
    c = instances.c
    query = select(*WHOLE).where(c.study_instance_uid == study_instance_uid, ~c.quarantined, c.sha256 > after)
    if series_instance_uid is not None:
        query = query.where(c.series_instance_uid == series_instance_uid)
    rows = connection.execute(query.order_by(c.sha256).limit(limit)).mappings()
    return [_with_header(row) for row in rows]


def of_series(
    connection: Connection, study_instance_uid: str, series_instance_uid: str | None, limit: int, offset: int
) -> list[InstanceRow]:
    """Return the instances of a series, or of a whole study, by number; conflicts too."""
    c = instances.c
    query = select(*LISTED).where(c.study_instance_uid == study_instance_uid)
    if series_instance_uid is not None:
        query = query.where(c.series_instance_uid == series_instance_uid)
    query = query.order_by(
        c.series_instance_uid, c.instance_number.nulls_last(), c.sop_instance_uid, c.received_at, c.sha256
    )
    return _rows(connection, query.limit(limit).offset(offset))


def listed(
    connection: Connection, study_instance_uid: str | None, damaged: bool, limit: int, offset: int
) -> list[InstanceRow]:
    """Return a page of all instances, or of a study's, or of those that came damaged, the newest first."""
    query = select(*LISTED)
    if study_instance_uid is not None:
        query = query.where(instances.c.study_instance_uid == study_instance_uid)
    if damaged:
        query = query.where(DAMAGED)
    query = query.order_by(instances.c.received_at.desc(), instances.c.sha256)
    return _rows(connection, query.limit(limit).offset(offset))


def _rows(connection: Connection, query: Any) -> list[InstanceRow]:
    return [InstanceRow(**row) for row in connection.execute(query).mappings()]


def _with_header(row: RowMapping) -> InstanceRow:
    return InstanceRow(**{**row, "header": decode_header(row["header"])})


def _first_come(one: IndexedInstance) -> tuple[str, datetime, str]:
    return one.received.sop_instance_uid, one.received.received_at, one.received.sha256


def instance_row(one: IndexedInstance, now: datetime) -> dict[str, Any]:
    """Return the row of an instance, but for whether it is quarantined."""
    return {
        **{name: getattr(one.received, name) for name in _RECEIVED},
        **instance_attributes(one.header),
        "indexed_at": now,
        "header": encode_header(one.header),
        "header_error": one.header_error,
        "trace_id": one.trace_id,
        "stored_at": one.stored_at,
    }


def insert(connection: Connection, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Insert what meets no conflict, waiting for concurrent batches; return the digests inserted."""
    if not rows:
        return set()
    statement = insert_into(connection, instances).on_conflict_do_nothing()
    return set(connection.execute(statement.returning(instances.c.sha256), rows).scalars())


def _complete(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Tell the rows that were rebuilt from an object what only the event knows."""
    names = (*(name for name in _RECEIVED if name not in FROM_OBJECT), "trace_id", "stored_at")
    for row in rows:
        rebuilt = (instances.c.sha256 == row["sha256"]) & (instances.c.association_id == "")
        connection.execute(update(instances).where(rebuilt).values({name: row[name] for name in names}))


def _holders(connection: Connection, sop_instance_uids: Iterable[str]) -> dict[str, str]:
    """Return the digest that is current for each SOP Instance UID."""
    query = select(instances.c.sop_instance_uid, instances.c.sha256).where(
        instances.c.sop_instance_uid.in_(list(sop_instance_uids)), ~instances.c.quarantined
    )
    return {row.sop_instance_uid: row.sha256 for row in connection.execute(query)}


def _result(one: IndexedInstance, holders: dict[str, str], current: set[str]) -> UpsertResult:
    digest, holder = one.received.sha256, holders[one.received.sop_instance_uid]
    if holder != digest:
        return UpsertResult(digest, UpsertOutcome.CONFLICT, existing_sha256=holder)
    return UpsertResult(digest, UpsertOutcome.NEW if digest in current else UpsertOutcome.KNOWN)
