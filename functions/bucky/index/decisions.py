"""Deciding which bytes are current under a SOP Instance UID: each change is one transaction, and may be repeated."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, select, update

from bucky.errors import Conflict, NotFound
from bucky.index import commitments, patients, rebuild
from bucky.index import instances as instance_rows
from bucky.index.attributes import decode_header, series_attributes, study_attributes
from bucky.index.counting import recount
from bucky.index.database import insert_into
from bucky.index.decisions_in_force import COLUMNS, enforce, locked, of_instance
from bucky.index.deliveries import PENDING
from bucky.index.delivery_schema import deliveries
from bucky.index.parents import record_arrivals
from bucky.index.rows import IndexedInstance, InstanceRow
from bucky.index.schema import decisions, instances, series, studies
from bucky.routing.corrections import ConflictDecision, Verdict

_DIGEST_LENGTH = 64
SET_ASIDE = "other bytes of this instance were accepted in its place (`bucky conflicts`): it was not sent"


def conflicts(connection: Connection, decided: bool | None, limit: int, offset: int) -> list[InstanceRow]:
    """Return a page of the bytes that others are current in place of, the newest first; None: decided about or not."""
    c = instances.c
    query = select(*instance_rows.LISTED).where(c.quarantined)
    if decided is not None:
        query = query.where(c.decision.is_not(None) if decided else c.decision.is_(None))
    rows = connection.execute(query.order_by(c.received_at.desc(), c.sha256).limit(limit).offset(offset)).mappings()
    return [InstanceRow(**row) for row in rows]


def digest(connection: Connection, prefix: str) -> str:
    """Return the one digest that begins so, of all bytes under the UIDs that conflicts are about."""
    if len(prefix) == _DIGEST_LENGTH:
        return prefix
    c = instances.c
    apart = select(c.sop_instance_uid).where(c.quarantined)
    about = apart.union(select(decisions.c.sop_instance_uid))
    # "g" comes after every digit of a digest.
    begins = and_(c.sha256 >= prefix, c.sha256 < f"{prefix}g")
    found = connection.execute(select(c.sha256).where(begins, c.sop_instance_uid.in_(about)).limit(2)).scalars().all()
    if not found:
        raise NotFound(f"No bytes of a conflict have a SHA-256 that begins with {prefix}: see `bucky conflicts list`.")
    if len(found) > 1:
        raise Conflict(f"Several SHA-256 begin with {prefix}: give more of its digits.")
    return str(found[0])


def count_open(connection: Connection) -> int:
    """Return how many bytes nobody decided about."""
    c = instances.c
    return int(connection.execute(select(func.count()).where(c.quarantined, c.decision.is_(None))).scalar() or 0)


def not_examined(connection: Connection, version: int, limit: int) -> list[InstanceRow]:
    """Return bytes nobody decided about that the conflict rules of this routing were not asked about."""
    c = instances.c
    query = select(*instance_rows.LISTED).where(c.quarantined, c.decision.is_(None))
    query = query.where(func.coalesce(c.examined_version, -1) < version)
    rows = connection.execute(query.order_by(c.received_at, c.sha256).limit(limit)).mappings()
    return [InstanceRow(**row) for row in rows]


def examined(connection: Connection, sha256: str, version: int) -> None:
    """Record that the conflict rules of a routing did not decide it."""
    connection.execute(update(instances).where(instances.c.sha256 == sha256).values(examined_version=version))


def current(connection: Connection, sop_instance_uid: str) -> InstanceRow | None:
    """Return the bytes that are current under a SOP Instance UID, without their header."""
    c = instances.c
    query = select(*instance_rows.LISTED).where(c.sop_instance_uid == sop_instance_uid, ~c.quarantined)
    row = connection.execute(query).mappings().first()
    return None if row is None else InstanceRow(**row)


def listed(connection: Connection, limit: int, offset: int) -> list[ConflictDecision]:
    """Return a page of decisions, the newest first."""
    c = decisions.c
    query = select(*COLUMNS).order_by(c.decided_at.desc(), c.sop_instance_uid, c.number.desc())
    return [ConflictDecision(**row) for row in connection.execute(query.limit(limit).offset(offset)).mappings()]


def decide(
    connection: Connection, sha256: str, verdict: Verdict, author: str, note: str, now: datetime
) -> ConflictDecision:
    """Decide about bytes; raise `Conflict` for a decision that makes no sense.

    The same decision again is the one there is, unless it comes with another note: then that is recorded as one more,
    which changes nothing else.
    """
    asked = connection.execute(select(instances.c.sop_instance_uid).where(instances.c.sha256 == sha256)).scalar()
    if asked is None:
        raise NotFound("the index has no instance with this digest")
    rows = locked(connection, asked)
    made = of_instance(connection, asked)
    last = made[-1] if made else None
    # The newest holds: neither the wait for another's decision nor a clock set back makes one older.
    if last is not None:
        now = max(now, last.decided_at + timedelta(microseconds=1))
    if last is not None and (last.sha256, last.verdict) == (sha256, verdict) and _holds(last, rows):
        return last if note in {"", last.note} else _noted(connection, made, author, note, now)
    before = next((one["sha256"] for one in rows.values() if not one["quarantined"]), None)
    if before is None:
        raise Conflict("no bytes of this instance are current: wait for the index to be rebuilt, then decide")
    after = _current_after(sha256, verdict, before, made, rows)
    number = max((one.number for one in made), default=0) + 1
    settled = {name: one["decision"] for name, one in rows.items() if one["decision"] is not None}
    settled |= {before: number, sha256: number}
    if verdict is Verdict.REOPENED:
        settled.pop(sha256, None)
    settled.pop(after, None)
    decision = ConflictDecision(
        sop_instance_uid=asked,
        number=number,
        verdict=verdict,
        sha256=sha256,
        other_sha256=before,
        current_sha256=after,
        settled=settled if after != before else {name: n for name, n in settled.items() if name != before},
        study_instance_uid=rows[sha256]["study_instance_uid"],
        series_instance_uid=rows[sha256]["series_instance_uid"],
        decided_at=now,
        author=author,
        note=note,
    )
    connection.execute(insert_into(connection, decisions), [decision.model_dump()])
    enforce(connection, [asked])
    if decision.swaps:
        _tell_studies(connection, [before, after], after, now)
        _hold_back(connection, before, now)
    return decision


def _noted(
    connection: Connection, made: Sequence[ConflictDecision], author: str, note: str, now: datetime
) -> ConflictDecision:
    """Record what somebody says of the decision that holds: the same once more, with this note."""
    last, number = made[-1], max(one.number for one in made) + 1
    said = {"other_sha256": last.current_sha256, "decided_at": now, "author": author, "note": note}
    decision = last.model_copy(update={**said, "number": number})
    connection.execute(insert_into(connection, decisions), [decision.model_dump()])
    return decision


def _current_after(
    sha256: str, verdict: Verdict, before: str, made: Sequence[ConflictDecision], rows: dict[str, RowMapping]
) -> str:
    """Return which bytes are current when this is decided; raise `Conflict` when it makes no sense."""
    if verdict is Verdict.ACCEPTED:
        if sha256 == before:
            raise Conflict("these bytes are current already: there is nothing to accept")
        return sha256
    if verdict is Verdict.REJECTED:
        if sha256 == before:
            raise Conflict("these bytes are current: accept others in their place, or undo the decision about them")
        return before
    accepted = (one for one in reversed(made) if one.verdict is Verdict.ACCEPTED and one.sha256 == before and one.swaps)
    swap = next(accepted, None)
    if sha256 == before and swap is not None and swap.other_sha256 in rows:
        return swap.other_sha256
    if sha256 == before or rows[sha256]["decision"] is None:
        raise Conflict("nothing was decided about these bytes that could be undone")
    if swap is not None and swap.other_sha256 == sha256:
        raise Conflict(f"these bytes were set aside for others: undo the decision about those, {before}")
    return before


def _holds(decision: ConflictDecision, rows: dict[str, RowMapping]) -> bool:
    found = rows.get(decision.current_sha256)
    return found is not None and not found["quarantined"]


def corrections(connection: Connection, digests: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return, for those of these bytes that a decision made current, all that were current under their UID before.

    What a rule had changed before it was sent is named by the digest it was sent with, too.
    """
    c = decisions.c
    made = connection.execute(select(c.sop_instance_uid).where(c.current_sha256.in_(digests))).scalars()
    found: dict[str, frozenset[str]] = {}
    for uid in set(made):
        swaps = [one for one in of_instance(connection, uid) if one.swaps]
        ever = {name for one in swaps for name in (one.current_sha256, one.other_sha256)}
        if swaps and swaps[-1].current_sha256 in digests:
            before = ever - {swaps[-1].current_sha256}
            d = deliveries.c
            changed = select(d.sent_sha256).where(d.sha256.in_(before), d.sent_sha256.is_not(None))
            found[swaps[-1].current_sha256] = frozenset(before | set(connection.execute(changed).scalars()))
    return found


def not_carried_out(connection: Connection, before: datetime, limit: int) -> list[ConflictDecision]:
    """Return decisions from before a time of which nobody knows that what follows was done."""
    c = decisions.c
    query = select(*COLUMNS).where(c.carried_out_at.is_(None), c.decided_at <= before)
    rows = connection.execute(query.order_by(c.decided_at).limit(limit)).mappings()
    return [ConflictDecision(**row) for row in rows]


def carried_out(connection: Connection, decision: ConflictDecision, now: datetime) -> None:
    """Record that the bucket has a decision and that what follows was requested."""
    c = decisions.c
    its_row = and_(c.sop_instance_uid == decision.sop_instance_uid, c.number == decision.number)
    connection.execute(update(decisions).where(its_row).values(carried_out_at=now))


def _tell_studies(connection: Connection, digests: Sequence[str], news: str, now: datetime) -> None:
    """Make studies and series say what their current instances say; the one that became current is news."""
    rows = instance_rows.by_digest(connection, digests)
    new = rows[news]
    one = IndexedInstance(new.received(), new.header or {}, new.header_error, new.trace_id, new.stored_at)
    record_arrivals(connection, current=[one], quarantined=[], now=now, news=True)
    for uid in sorted({row.study_instance_uid for row in rows.values()}):
        _gather(connection, uid)
        recount(connection, uid)


def _gather(connection: Connection, study_uid: str) -> None:
    """Fill in a study and its series from the headers of their current instances, in the order received."""
    c = instances.c
    query = select(c.study_instance_uid, c.series_instance_uid, c.header).where(
        c.study_instance_uid == study_uid, ~c.quarantined
    )
    gathered = rebuild.StudyAttributes()
    for row in connection.execute(query.order_by(c.received_at, c.sha256)):
        header = decode_header(row.header)
        its = {name: getattr(row, name) for name in ("study_instance_uid", "series_instance_uid")}
        gathered.add(rebuild.InstanceRows(its, study_attributes(header), series_attributes(header)))
    if gathered.study:
        connection.execute(update(studies).where(studies.c.study_instance_uid == study_uid).values(gathered.study))
        patients.replace(connection, study_uid, list(gathered.patients.values()), gathered.instances)
    for series_uid, values in sorted(gathered.series.items()):
        its_row = and_(series.c.study_instance_uid == study_uid, series.c.series_instance_uid == series_uid)
        connection.execute(update(series).where(its_row).values(values))


def _hold_back(connection: Connection, sha256: str, now: datetime) -> None:
    """Let deliveries of bytes that are not current any more fail: sent later, they would replace the others there."""
    c = deliveries.c
    pending = select(c.delivery_id).where(c.sha256 == sha256, c.state.in_(PENDING))
    waiting: list[Any] = list(connection.execute(pending).scalars())
    commitments.give_up(connection, dict.fromkeys(waiting, SET_ASIDE), PENDING, now)
