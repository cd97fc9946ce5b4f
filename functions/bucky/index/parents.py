"""Rolling instances up into their series and studies, in the transaction that inserted them.

How two rows become one is said once, in `_MERGE`, and used both within a batch and by the database.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import add
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, case, func

from bucky.index import patients
from bucky.index.attributes import expected_counts, series_attributes, study_attributes
from bucky.index.database import insert_in
from bucky.index.rows import IndexedInstance
from bucky.index.schema import arrivals, series, studies

if TYPE_CHECKING:
    from bucky.index.database import Insert

Column = ColumnElement[Any]


def _old(old: Any, _new: Any) -> Any:
    return old


def _new(_old: Any, new: Any) -> Any:
    return new


# Column: how to merge in Python, how to merge in SQL. Any other keeps the first value that is not null.
_MERGE: Mapping[str, tuple[Callable[[Any, Any], Any], Callable[[Column, Column], Column]]] = {
    "first_received_at": (min, lambda old, new: case((old <= new, old), else_=new)),
    "last_instance_at": (max, lambda old, new: case((old >= new, old), else_=new)),
    "instance_count": (add, add),
    "quarantined_count": (add, add),
    # What arrives opens a study and its series again, and keeps its count of revisions.
    "open": (_new, _new),
    "quiet_seconds": (_new, _new),
    "revision": (_old, _old),
}


def record_arrivals(
    connection: Connection,
    current: Sequence[IndexedInstance],
    quarantined: Sequence[IndexedInstance],
    now: datetime,
    *,
    news: bool,
) -> None:
    """Make, complete and count the series and studies of instances just inserted.

    What is quarantined is counted, but its attributes change nothing, and it is no news of the study.
    """
    in_order = sorted(current, key=lambda one: (one.received.received_at, one.received.sha256))
    came = [(one, one.header, True) for one in in_order] + [(one, {}, False) for one in quarantined]
    _upsert(
        connection,
        series,
        [
            {
                "study_instance_uid": one.received.study_instance_uid,
                "series_instance_uid": one.received.series_instance_uid,
                **series_attributes(header),
                "instance_count": int(is_current),
                "quarantined_count": int(not is_current),
            }
            for one, header, is_current in came
        ],
    )
    _upsert(
        connection,
        studies,
        [
            {
                "study_instance_uid": one.received.study_instance_uid,
                **study_attributes(header),
                "first_received_at": one.received.received_at,
                "last_instance_at": now,
            }
            for one, header, _ in came
        ],
    )
    # Now this transaction holds the studies' rows: who adds another patient at the same time waits for it.
    patients.record(
        connection,
        [patients.patient_of(one.received.study_instance_uid, study_attributes(one.header)) for one in in_order],
    )
    if news:
        _upsert(connection, arrivals, [row for one in in_order for row in _arrived(one, now)])


def _arrived(one: IndexedInstance, now: datetime) -> list[dict[str, Any]]:
    of_study, of_series = expected_counts(one.header)
    news = {"last_instance_at": now, "revision": 0, "quiet_seconds": 0.0, "open": True}
    study_uid, series_uid = one.received.study_instance_uid, one.received.series_instance_uid
    return [
        {"study_instance_uid": study_uid, "series_instance_uid": "", "expected_count": of_study, **news},
        {"study_instance_uid": study_uid, "series_instance_uid": series_uid, "expected_count": of_series, **news},
    ]


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        merged[key] = _merged(merged[key], row) if key in merged else row
    statement = _merging(connection.dialect.name, table, tuple(rows[0]))
    connection.execute(statement, [merged[key] for key in sorted(merged)])


@cache
def _merging(dialect: str, table: Table, names: tuple[str, ...]) -> "Insert":
    """Return the statement that makes rows or merges into them; making it costs as much as carrying it out."""
    insert = insert_in(dialect, table)
    keys = [column.name for column in table.primary_key]
    updates = {name: _merged_by_database(table.c[name], insert.excluded[name]) for name in names if name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=updates)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _MERGE[name][0](value, new[name]) if name in _MERGE else _first(value, new[name])
        for name, value in old.items()
    }


def _first(old: Any, new: Any) -> Any:
    return new if old is None else old


def _merged_by_database(old: Any, new: Column) -> Column:
    return _MERGE[old.name][1](old, new) if old.name in _MERGE else func.coalesce(old, new)
