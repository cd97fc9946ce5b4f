"""Deliveries: what was decided, and how far it has come. Every change of state goes through `move`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Update,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
    update,
)

from bucky.errors import NotFound
from bucky.events import DeliveryRequested, InstanceStored
from bucky.index import delivery_steps, processing, routings
from bucky.index.database import insert_into
from bucky.index.delivery_rows import AttemptOutcome, DeliveryAttempt, DeliveryCount, DeliveryRow, DeliveryState
from bucky.index.delivery_schema import deliveries, delivery_members
from bucky.index.rows import Routed

# For each state, those it may follow. `delivered` is the destination's own word, so it follows any other.
# Nothing follows it, and nothing but a success follows `failed`, `dead_letter` or `dismissed`, unless it is redriven;
# the first two may be dismissed.
# What becomes of `uncommitted` is the report's to say, or the keeper's when there is none: `commitments`.
COMES_FROM: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.RETRYING: frozenset({DeliveryState.REQUESTED, DeliveryState.RETRYING}),
    DeliveryState.FAILED: frozenset({DeliveryState.REQUESTED, DeliveryState.RETRYING}),
    DeliveryState.DEAD_LETTER: frozenset({DeliveryState.REQUESTED, DeliveryState.RETRYING, DeliveryState.FAILED}),
    DeliveryState.DISMISSED: frozenset({DeliveryState.FAILED, DeliveryState.DEAD_LETTER}),
    DeliveryState.UNCOMMITTED: frozenset(DeliveryState) - {DeliveryState.DELIVERED, DeliveryState.UNCOMMITTED},
    DeliveryState.DELIVERED: frozenset(DeliveryState) - {DeliveryState.DELIVERED},
    DeliveryState.REQUESTED: frozenset(DeliveryState),
}
PENDING = (DeliveryState.REQUESTED, DeliveryState.RETRYING)
# What is sent anew is as if it had never been sent.
_ANEW: Mapping[str, Any] = {
    "waiting_since": None,
    "due_at": None,
    "sends": 0,
    "commitment": "",
    "commitment_uid": None,
    "commitment_asked_at": None,
    "commitment_asks": 0,
}


def request(
    connection: Connection,
    requests: Sequence[DeliveryRequested],
    traces: Mapping[str, str],
    routed: Sequence[Routed],
    members: Mapping[str, Sequence[str]],
    now: datetime,
) -> list[str]:
    """Record what is not yet recorded; return the ids, in order, of the deliveries still to be done."""
    routings.record(connection, routed, now)
    if not requests:
        return []
    rows = {one.delivery_id: _row(one, traces.get(one.delivery_id), now) for one in requests}
    insert = insert_into(connection, deliveries).on_conflict_do_nothing(index_elements=["delivery_id"])
    connection.execute(insert, [rows[delivery_id] for delivery_id in sorted(rows)])
    processing.keep_members(connection, members)
    query = select(deliveries.c.delivery_id).where(
        deliveries.c.delivery_id.in_(list(rows)), deliveries.c.state.in_(PENDING)
    )
    pending = set(connection.execute(query).scalars())
    return [delivery_id for delivery_id in rows if delivery_id in pending]


def attempted(
    connection: Connection,
    attempts: Sequence[DeliveryAttempt],
    results: Mapping[str, Sequence[InstanceStored]],
) -> None:
    """Record attempts; one that comes after the delivery was settled changes nothing but for a success."""
    processing.keep_results(connection, results)
    in_order = sorted(attempts, key=lambda attempt: (attempt.delivery_id, attempt.at))
    _keep_unanswered(connection, in_order)
    for one in in_order:
        to, reason, detail = DeliveryState(one.outcome), _text(one.reason), _text(one.detail)
        # A row itself says when it was delivered; what it will forget is recorded.
        if to is not DeliveryState.DELIVERED and move(
            connection,
            one.delivery_id,
            to,
            one.at,
            attempts=deliveries.c.attempts + int(one.tried),
            reason=reason,
            detail=detail,
            completed_at=None,
            sent_sha256=one.sent_sha256,
            crosswalks=one.crosswalks,
            **_waits_for(one, to),
        ):
            with_tables = f"{detail} (crosswalks: {one.crosswalks})".strip() if one.crosswalks else detail
            delivery_steps.record(connection, one.delivery_id, to, one.at, reason, with_tables, times=int(one.tried))
    _arrived(connection, [one for one in in_order if one.outcome is AttemptOutcome.DELIVERED])


def _keep_unanswered(connection: Connection, attempts: Sequence[DeliveryAttempt]) -> None:
    """Record what was sent whole and had no answer: it is known of that delivery from then on."""
    for one in attempts:
        if one.unanswered_sha256 is not None:
            its_row = deliveries.c.delivery_id == one.delivery_id
            connection.execute(update(deliveries).where(its_row).values(unanswered_sha256=one.unanswered_sha256))


def _waits_for(one: DeliveryAttempt, to: DeliveryState) -> dict[str, Any]:
    """Return the values that say what a delivery waits for after an attempt."""
    if to is DeliveryState.RETRYING:
        return {}
    if to is not DeliveryState.UNCOMMITTED:
        return {"due_at": None}
    return {
        "sends": deliveries.c.sends + 1,
        "waiting_since": one.at,
        "due_at": one.due_at,
        "commitment": "it is to be asked for",
        "commitment_uid": one.commitment_uid,
        "commitment_asked_at": None,
        "commitment_asks": 0,
    }


def _arrived(connection: Connection, attempts: Sequence[DeliveryAttempt]) -> None:
    """Record successes, nearly all there is to record, in one statement: nothing needs to know which were news."""
    if not attempts:
        return
    values = {"state": DeliveryState.DELIVERED, "attempts": deliveries.c.attempts + bindparam("tried"), "due_at": None}
    same = ("updated_at", "reason", "detail", "completed_at", "sent_sha256", "crosswalks")
    change = _change(bindparam("delivery"), COMES_FROM[DeliveryState.DELIVERED]).values(
        **values, **{name: bindparam(f"new_{name}") for name in same}
    )
    rows = [
        {
            "delivery": one.delivery_id,
            "tried": int(one.tried),
            "new_updated_at": one.at,
            "new_reason": _text(one.reason),
            "new_detail": _text(one.detail),
            "new_completed_at": one.at,
            "new_sent_sha256": one.sent_sha256,
            "new_crosswalks": one.crosswalks,
        }
        for one in attempts
    ]
    connection.execute(change, rows)


def dead_letter(connection: Connection, delivery_id: str, reason: str, attempts: int, at: datetime) -> bool:
    """Record that nobody will try again by themselves, unless it was redriven since; return whether it was so."""
    not_redriven = or_(deliveries.c.redriven_at.is_(None), deliveries.c.redriven_at <= at)
    # The broker may have counted more attempts than were recorded: the function can have died in one.
    counted = case((deliveries.c.attempts > attempts, deliveries.c.attempts), else_=attempts)
    moved = move(
        connection,
        delivery_id,
        DeliveryState.DEAD_LETTER,
        at,
        not_redriven,
        reason=_text(reason),
        attempts=counted,
    )
    if moved:
        delivery_steps.record(connection, delivery_id, DeliveryState.DEAD_LETTER, at, _text(reason))
    return moved


def redriven(connection: Connection, delivery_ids: Iterable[str], now: datetime) -> list[str]:
    """Set deliveries, delivered ones too, to be done again; return the ids there are."""
    wanted = sorted(set(delivery_ids))
    delivery_steps.keep_successes(connection, wanted)
    moved = [
        delivery_id
        for delivery_id in wanted
        if move(connection, delivery_id, DeliveryState.REQUESTED, now, redriven_at=now, completed_at=None, **_ANEW)
    ]
    for delivery_id in moved:
        delivery_steps.record(connection, delivery_id, delivery_steps.REDRIVEN, now)
    return moved


def dismiss(connection: Connection, delivery_ids: Iterable[str], author: str, note: str, now: datetime) -> list[str]:
    """Record that deliveries which were given up are not to be made any more, and why; return those that are so now."""
    said = _text(f"by {author} {note}")
    moved = [
        delivery_id
        for delivery_id in sorted(set(delivery_ids))
        if move(connection, delivery_id, DeliveryState.DISMISSED, now, reason=said, due_at=None)
    ]
    for delivery_id in moved:
        delivery_steps.record(connection, delivery_id, DeliveryState.DISMISSED, now, said)
    return moved


def one(connection: Connection, delivery_id: str) -> DeliveryRow:
    """Return a delivery; raise `NotFound`."""
    row = connection.execute(select(deliveries).where(deliveries.c.delivery_id == delivery_id)).mappings().first()
    if row is None:
        raise NotFound("the index has no such delivery")
    return as_row(row)


def delivered(connection: Connection, delivery_ids: Sequence[str]) -> set[str]:
    """Return those of these deliveries that the destination has."""
    c = deliveries.c
    query = select(c.delivery_id).where(c.delivery_id.in_(delivery_ids), c.state == DeliveryState.DELIVERED)
    return set(connection.execute(query).scalars())


def listed(
    connection: Connection,
    *,
    state: DeliveryState | None,
    destination: str | None,
    study_uid: str | None,
    sha256: str | None,
    limit: int,
    after: str | None,
) -> list[DeliveryRow]:
    """Return a page of deliveries, those requested last first, from the one after the delivery `after`."""
    c = deliveries.c
    query = select(deliveries)
    for column, value in (
        (c.state, state),
        (c.destination, destination),
        (c.study_instance_uid, study_uid),
    ):
        if value is not None:
            query = query.where(column == value)
    if sha256 is not None:
        m = delivery_members.c
        among = select(m.delivery_id).where(m.sha256 == sha256)
        query = query.where(or_(c.sha256 == sha256, c.delivery_id.in_(among)))
    if after is not None:
        last = one(connection, after)
        query = query.where(
            or_(
                c.requested_at < last.requested_at,
                and_(c.requested_at == last.requested_at, c.delivery_id < last.delivery_id),
            )
        )
    query = query.order_by(c.requested_at.desc(), c.delivery_id.desc()).limit(limit)
    return [as_row(row) for row in connection.execute(query).mappings()]


def of_instances(connection: Connection, digests: Iterable[str]) -> list[DeliveryRow]:
    """Return every delivery of these instances, those requested first first; one of several is there for each."""
    wanted, m = list(digests), delivery_members.c
    order = (deliveries.c.requested_at, deliveries.c.delivery_id)
    alone = select(deliveries).where(deliveries.c.sha256.in_(wanted)).order_by(*order)
    found = [as_row(row) for row in connection.execute(alone).mappings()]
    joined = select(deliveries, m.sha256.label("member")).join(
        delivery_members, m.delivery_id == deliveries.c.delivery_id
    )
    among = joined.where(m.sha256.in_(wanted), m.sha256 != deliveries.c.sha256).order_by(*order)
    for row in connection.execute(among).mappings():
        values = dict(row)
        found.append(as_row(values | {"sha256": values.pop("member")}))
    return found


def counts(connection: Connection) -> list[DeliveryCount]:
    """Return how many deliveries to each destination are in each state."""
    c = deliveries.c
    query = select(c.destination, c.state, func.count()).group_by(c.destination, c.state)
    query = query.order_by(c.destination, c.state)
    return [
        DeliveryCount(destination, DeliveryState(state), number)
        for destination, state, number in connection.execute(query)
    ]


def move(
    connection: Connection,
    delivery_id: str,
    to: DeliveryState,
    at: datetime,
    *conditions: ColumnElement[bool],
    since: Collection[DeliveryState] | None = None,
    **values: Any,
) -> bool:
    """Change the state if it may follow the one there is (`COMES_FROM`, or `since`); return whether it did."""
    change = _change(delivery_id, COMES_FROM[to] if since is None else since).where(*conditions)
    return connection.execute(change.values(state=to, updated_at=at, **values)).rowcount == 1


def _change(delivery_id: str | BindParameter[Any], since: Collection[DeliveryState]) -> Update:
    """Return the update of a delivery to a state that may follow these."""
    # Not `in_`: its values are expanded when it is carried out, which many rows at once cannot be.
    may_follow = or_(*(deliveries.c.state == one for one in sorted(since)))
    return update(deliveries).where(deliveries.c.delivery_id == delivery_id, may_follow)


def _row(one: DeliveryRequested, trace_id: str | None, now: datetime) -> dict[str, Any]:
    return {
        "delivery_id": one.delivery_id,
        "sha256": one.instance.sha256,
        "study_instance_uid": one.instance.study_instance_uid,
        "series_instance_uid": one.instance.series_instance_uid,
        "sop_instance_uid": one.instance.sop_instance_uid,
        "destination": one.destination,
        "rule": one.rule,
        "rule_version": one.rule_version,
        "state": DeliveryState.REQUESTED,
        "attempts": 0,
        "reason": "",
        "detail": "",
        "received_at": one.instance.received_at,
        "requested_at": now,
        "updated_at": now,
        "trace_id": trace_id,
        "priority": one.priority,
        "morph_sha256": one.morph_sha256,
        **{name: getattr(one, name, None) for name in ("unit", "unit_sha256", "unit_instances")},
    }


def as_row(row: Mapping[Any, Any]) -> DeliveryRow:
    """Return a row as the other parts see it."""
    return DeliveryRow(**{**row, "state": DeliveryState(row["state"])})


def _text(value: str) -> str:
    """Return a text both databases take: PostgreSQL refuses NUL."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:2000]
