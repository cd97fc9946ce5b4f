"""Counting a study's instances anew."""

from sqlalchemy import Connection, and_, case, delete, func, select, update

from bucky.index import patients
from bucky.index.schema import arrivals, instances, series, studies

NO_COUNTS = {"instance_count": 0, "quarantined_count": 0}


def recount(connection: Connection, study_uid: str) -> None:
    """Make a study's counts and times those of its instances; remove what has none left."""
    c, of_study, its_study = (
        instances.c,
        series.c.study_instance_uid == study_uid,
        studies.c.study_instance_uid == study_uid,
    )
    # Who indexes an instance of it now waits here, or is waited for: what is counted next is what there is.
    locked = select(series.c.series_instance_uid).where(of_study).order_by(series.c.series_instance_uid)
    connection.execute(locked.with_for_update()).all()
    connection.execute(select(studies.c.study_instance_uid).where(its_study).with_for_update()).all()
    counted = (
        select(
            c.series_instance_uid,
            func.sum(case((c.quarantined, 0), else_=1)).label("instance_count"),
            func.sum(case((c.quarantined, 1), else_=0)).label("quarantined_count"),
            func.min(c.received_at, type_=c.received_at.type).label("first_received_at"),
            func.max(c.indexed_at, type_=c.indexed_at.type).label("last_instance_at"),
        )
        .where(c.study_instance_uid == study_uid)
        .group_by(c.series_instance_uid)
        .order_by(c.series_instance_uid)
    )
    rows = connection.execute(counted).mappings().all()
    for row in rows:
        counts = {name: int(row[name]) for name in NO_COUNTS}
        one = and_(of_study, series.c.series_instance_uid == row["series_instance_uid"])
        connection.execute(update(series).where(one).values(counts))
    still_there = select(c.sha256).where(
        c.study_instance_uid == study_uid, c.series_instance_uid == series.c.series_instance_uid
    )
    connection.execute(delete(series).where(of_study, ~still_there.exists()))
    if not rows:
        connection.execute(delete(arrivals).where(arrivals.c.study_instance_uid == study_uid))
        connection.execute(delete(studies).where(its_study))
        patients.forget(connection, study_uid)
        return
    times = {
        "first_received_at": min(row["first_received_at"] for row in rows),
        "last_instance_at": max(row["last_instance_at"] for row in rows),
    }
    connection.execute(update(studies).where(its_study).values(times))
