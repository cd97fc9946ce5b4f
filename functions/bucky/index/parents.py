"""Rolling instances up into their series and studies, in the transaction that inserted them.

How two rows become one is said once, in `_MERGE`, and used both within a batch and by the database.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, case, func

from bucky.index.attributes import series_attributes, study_attributes
from bucky.index.database import insert_into
from bucky.index.rows import IndexedInstance
from bucky.index.schema import series, studies

Column = ColumnElement[Any]

# Column: how to merge in Python, how to merge in SQL. Any other keeps the first value that is not null.
_MERGE: Mapping[str, tuple[Callable[[Any, Any], Any], Callable[[Column, Column], Column]]] = {
    "first_received_at": (min, lambda old, new: case((old <= new, old), else_=new)),
    "last_instance_at": (max, lambda old, new: case((old >= new, old), else_=new)),
    "instance_count": (add, add),
    "quarantined_count": (add, add),
}


def record_arrivals(
    connection: Connection,
    current: Sequence[IndexedInstance],
    quarantined: Sequence[IndexedInstance],
    now: datetime,
) -> None:
    """Make, complete and count the series and studies of instances just inserted.

    What is quarantined is counted, but its attributes change nothing.
    """
    arrivals = [(one, one.header, True) for one in current] + [(one, {}, False) for one in quarantined]
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
            for one, header, is_current in arrivals
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
            for one, header, _ in arrivals
        ],
    )


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in keys)
        merged[key] = _merged(merged[key], row) if key in merged else row
    insert = insert_into(connection, table)
    updates = {name: _merged_by_database(table.c[name], insert.excluded[name]) for name in rows[0] if name not in keys}
    statement = insert.on_conflict_do_update(index_elements=keys, set_=updates)
    connection.execute(statement, [merged[key] for key in sorted(merged)])


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _MERGE[name][0](value, new[name]) if name in _MERGE else _first(value, new[name])
        for name, value in old.items()
    }


def _first(old: Any, new: Any) -> Any:
    return new if old is None else old


def _merged_by_database(old: Any, new: Column) -> Column:
    return _MERGE[old.name][1](old, new) if old.name in _MERGE else func.coalesce(old, new)
