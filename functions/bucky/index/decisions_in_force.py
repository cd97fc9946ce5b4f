"""Which decisions hold, and making rows what they say: however often, and after a rebuild."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, RowMapping, select, update

from bucky.index.database import insert_into
from bucky.index.schema import decisions, instances
from bucky.routing.corrections import ConflictDecision

COLUMNS = [column for column in decisions.c if column.name != "carried_out_at"]


def of_instance(connection: Connection, sop_instance_uid: str) -> list[ConflictDecision]:
    """Return every decision about a SOP Instance UID, the first first."""
    query = select(*COLUMNS).where(decisions.c.sop_instance_uid == sop_instance_uid)
    rows = connection.execute(query.order_by(decisions.c.decided_at, decisions.c.number)).mappings()
    return [ConflictDecision(**row) for row in rows]


def locked(connection: Connection, sop_instance_uid: str) -> dict[str, RowMapping]:
    """Return what is needed of all bytes under a SOP Instance UID; who else decides about them waits."""
    c = instances.c
    columns = (c.sha256, c.quarantined, c.decision, c.study_instance_uid, c.series_instance_uid)
    query = select(*columns).where(c.sop_instance_uid == sop_instance_uid).order_by(c.sha256).with_for_update()
    return {row["sha256"]: row for row in connection.execute(query).mappings()}


def enforce(connection: Connection, sop_instance_uids: Iterable[str]) -> set[str]:
    """Make rows what the newest decisions say; return the Study Instance UIDs of those that were not so."""
    changed: set[str] = set()
    for decision in newest(connection, sop_instance_uids).values():
        rows = locked(connection, decision.sop_instance_uid)
        if decision.current_sha256 not in rows:
            continue  # lost, or not indexed yet: what is there stays visible
        wanted = {name: (name != decision.current_sha256, decision.settled.get(name)) for name in rows}
        # The partial unique index allows one that is current: the others first.
        for name in sorted(wanted, key=lambda one: (not wanted[one][0], one)):
            if (rows[name]["quarantined"], rows[name]["decision"]) != wanted[name]:
                quarantined, number = wanted[name]
                values = {"quarantined": quarantined, "decision": number, "examined_version": None}
                connection.execute(update(instances).where(instances.c.sha256 == name).values(values))
                changed.add(rows[name]["study_instance_uid"])
    return changed


def newest(connection: Connection, sop_instance_uids: Iterable[str]) -> dict[str, ConflictDecision]:
    """Return the decision that holds for each of these SOP Instance UIDs."""
    found: dict[str, ConflictDecision] = {}
    wanted = sorted(set(sop_instance_uids))
    for at in range(0, len(wanted), 1000):
        query = select(*COLUMNS).where(decisions.c.sop_instance_uid.in_(wanted[at : at + 1000]))
        rows = connection.execute(query.order_by(decisions.c.decided_at, decisions.c.number)).mappings()
        found |= {row["sop_instance_uid"]: ConflictDecision(**row) for row in rows}
    return found


def restore(connection: Connection, found: Sequence[ConflictDecision]) -> None:
    """Take decisions from the bucket that the index does not have; what follows was requested before."""
    for one in sorted(found, key=lambda each: (each.decided_at, each.number)):
        made = of_instance(connection, one.sop_instance_uid)
        if any(each.key == one.key for each in made):
            continue
        taken = {each.number for each in made}
        number = one.number if one.number not in taken else max(taken) + 1
        values = one.model_dump() | {"number": number, "carried_out_at": one.decided_at}
        connection.execute(insert_into(connection, decisions), [values])
