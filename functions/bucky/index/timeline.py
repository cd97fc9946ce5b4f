"""What happened to a study or an instance, from its association to the last delivery, in one query."""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Integer,
    Select,
    String,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from bucky.errors import NotFound
from bucky.index.delivery_rows import DeliveryState
from bucky.index.delivery_schema import deliveries, delivery_members, delivery_steps, routings
from bucky.index.rows import TimelineStep
from bucky.index.schema import decisions, instances, revisions, studies

_DIGEST = re.compile(r"[0-9a-f]{64}")
# The columns of a step, with their types, in the order of the union.
_COLUMNS = {
    "sha256": String,
    "series_instance_uid": String,
    "sop_instance_uid": String,
    "destination": String,
    "rule": String,
    "rule_version": Integer,
    "revision": Integer,
    "detail": String,
    "trace_id": String,
}
# What steps must have in common to be shown as one.
_TOGETHER = ("step", "place", "destination", "rule", "rule_version", "revision", "detail", "trace_id")


def steps(connection: Connection, of: str, *, each: bool, limit: int, offset: int) -> list[TimelineStep]:
    """Return a page of the steps of a study (its UID), or of an instance (its UID or its digest), in time's order.

    With `each`, every instance's; otherwise those that say the same of several instances are one, counted.
    Raises `NotFound` when nothing of this name was ever here.
    """
    digests = _digests(connection, of)
    is_study = digests is None
    if digests == [] or (is_study and not _is_study(connection, of)):
        raise NotFound("the index knows no study and no instance by this name")
    union = _all_steps(_Of(of, digests)).subquery()
    query = _each(union) if each or not is_study else _together(union)
    rows = connection.execute(query.limit(limit).offset(offset)).mappings()
    names = [field.name for field in fields(TimelineStep)]
    return [TimelineStep(**{name: row[name] for name in names}) for row in rows]


class _Of:
    """Whose steps are asked for: a study's, or those of some instances."""

    def __init__(self, study_uid: str, digests: Sequence[str] | None) -> None:
        self._study_uid, self._digests = study_uid, digests

    def on(self, table: FromClause) -> ColumnElement[bool]:
        """Return the condition on a table that has both columns."""
        if self._digests is None:
            return table.c.study_instance_uid == self._study_uid
        return table.c.sha256.in_(self._digests)

    def among(self, members: FromClause) -> ColumnElement[bool]:
        """Return the condition on what is given to functions as a whole."""
        if self._digests is None:
            return deliveries.c.study_instance_uid == self._study_uid
        return members.c.sha256.in_(self._digests)

    def stable(self) -> ColumnElement[bool]:
        """Return the condition on revisions: for an instance, those of its study and of its series."""
        r = revisions.c
        if self._digests is None:
            return r.study_instance_uid == self._study_uid
        of_instance = select(instances.c.sha256).where(
            self.on(instances),
            instances.c.study_instance_uid == r.study_instance_uid,
            r.series_instance_uid.in_(["", instances.c.series_instance_uid]),
        )
        return of_instance.exists()


def _digests(connection: Connection, of: str) -> list[str] | None:
    """Return the digests of an instance, or None when the name must be a study's."""
    c = instances.c
    if _DIGEST.fullmatch(of):
        held = select(c.sha256).where(c.sha256 == of)
        sent = select(deliveries.c.sha256).where(deliveries.c.sha256 == of)
        return sorted(set(connection.execute(union_all(held, sent)).scalars()))
    # Each half has an index of its own.
    current = select(c.sha256).where(c.sop_instance_uid == of, ~c.quarantined)
    apart = select(c.sha256).where(c.sop_instance_uid == of, c.quarantined)
    return list(connection.execute(union_all(current, apart)).scalars()) or None


def _is_study(connection: Connection, uid: str) -> bool:
    held = select(literal(1)).where(studies.c.study_instance_uid == uid)
    sent = select(literal(1)).where(deliveries.c.study_instance_uid == uid)
    return connection.execute(union_all(held, sent).limit(1)).first() is not None


def _all_steps(of: _Of) -> CompoundSelect[Any]:
    i, d, s, r, v = instances.c, deliveries.c, delivery_steps.c, routings.c, revisions.c
    c = decisions.c
    place = {name: i[name] for name in ("sha256", "series_instance_uid", "sop_instance_uid")}
    held = {**place, "trace_id": i.trace_id}
    told = {name: d[name] for name in ("trace_id", "destination", "rule", "rule_version")}
    sent = {**{name: d[name] for name in place}, **told}
    # A function gets a whole series or study at once: a step of each of its instances.
    alone = func.coalesce(d.unit, "instance") == "instance"
    several = {"sha256": delivery_members.c.sha256, **told}
    came = i.calling_aet + literal(" to ") + i.called_aet + literal(" from ") + i.source_address
    made = literal("made by a function, delivery ") + i.association_id
    aside = case(
        (~i.quarantined, func.coalesce(i.header_error, "")),
        (i.decision.is_(None), literal("conflict: other bytes came first")),
        else_=literal("set aside: it was decided that other bytes are current"),
    )
    asked = case((r.destinations == 0, literal("no rule matched")), else_=literal(""))
    # Where a destination committed, that is why it counts as delivered.
    tables = case((d.crosswalks == "", ""), else_=literal(" (crosswalks: ") + d.crosswalks + literal(")"))
    answered = func.trim(d.reason + literal(" ") + d.detail + tables)
    answered = func.trim(answered + literal(" ") + d.commitment)
    said = func.trim(s.reason + literal(" ") + s.detail)
    routed = instances.join(routings, r.sha256 == i.sha256)
    together = deliveries.join(delivery_members, delivery_members.c.delivery_id == d.delivery_id)
    delivered = d.state == DeliveryState.DELIVERED
    association = case((i.processed.is_not(None), made), else_=came + literal(", association ") + i.association_id)
    parts = [
        _step(0, literal("received"), i.received_at, **held, detail=association).where(of.on(instances)),
        _step(1, literal("stored"), i.stored_at, **held).where(of.on(instances), i.stored_at.is_not(None)),
        _step(2, literal("indexed"), i.indexed_at, **held, detail=aside).where(of.on(instances)),
        _step(3, literal("routed"), r.routed_at, **held, rule_version=r.rule_version, detail=asked)
        .select_from(routed)
        .where(of.on(instances), r.rule_version > 0),
        _step(
            4,
            c.verdict,
            c.decided_at,
            **{name: c[name] for name in place},
            detail=func.trim(literal("by ") + c.author + literal(" ") + c.note),
        ).where(of.on(decisions)),
        *(
            step.select_from(source).where(condition)
            for known, table, condition in (
                (sent, deliveries, of.on(deliveries) & alone),
                (several, together, of.among(delivery_members) & ~alone),
            )
            for step, source in (
                (_step(4, literal("requested"), d.requested_at, **known), table),
                (
                    _step(5, s.outcome, s.first_at, until=s.last_at, times=s.times, **known, detail=said),
                    table.join(delivery_steps, s.delivery_id == d.delivery_id),
                ),
                (
                    _step(6, literal("delivered"), d.completed_at, **known, detail=answered).where(delivered),
                    table,
                ),
            )
        ),
        _step(
            7,
            case((v.series_instance_uid == "", literal("study_stable")), else_=literal("series_stable")),
            v.stable_at,
            series_instance_uid=func.nullif(v.series_instance_uid, ""),
            revision=v.revision,
            detail=v.reason,
            trace_id=v.trace_id,
        ).where(of.stable()),
    ]
    return union_all(*parts)


def _step(place: int, step: Any, at: Any, *, until: Any = None, times: Any = None, **known: Any) -> Select[Any]:
    columns = [known.get(name, cast(null(), kind)).label(name) for name, kind in _COLUMNS.items()]
    return select(
        literal(place).label("place"),
        step.label("step"),
        at.label("at"),
        (at if until is None else until).label("until"),
        (literal(1) if times is None else times).label("times"),
        *columns,
    )


def _each(union: FromClause) -> Select[Any]:
    one = case((union.c.sha256.is_(None), 0), else_=1).label("instances")
    return select(*union.c, one).order_by(union.c.at, union.c.place, union.c.sha256, union.c.destination)


def _together(union: FromClause) -> Select[Any]:
    u = union.c
    alike = [u[name] for name in _TOGETHER]
    number = func.count(u.sha256.distinct())

    def only(name: str) -> Any:
        return case((func.count(u[name].distinct()) == 1, func.min(u[name]))).label(name)

    return (
        select(
            *alike,
            func.min(u.at).label("at"),
            func.max(u.until).label("until"),
            func.sum(u.times).label("times"),
            number.label("instances"),
            only("sha256"),
            only("series_instance_uid"),
            only("sop_instance_uid"),
        )
        .group_by(*alike)
        .order_by(func.min(u.at), u.place, func.max(u.until), u.destination, u.detail)
    )
