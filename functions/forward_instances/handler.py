"""Sends instances to the destination that a rule chose, and records what the destination answered.

An instance is delivered when the destination itself answered success for it, and not before. Each outcome
is recorded before its event is acknowledged: after a crash in between, that batch is sent once more.

    the destination                    delivery becomes   the event
    answered success or a warning      delivered          done
    has it already                     delivered          done: its copy was compared, or our answer was lost
      and is to commit to it           uncommitted        done: `commit-deliveries` asks for the commitment
    is away, busy, or rejects us       retrying           failed, to be tried again
    is closed by its schedule          retrying           not attempted: the connector leaves it alone
    refuses this instance              failed             failed for good: the connector makes it a dead
                                                          letter, and with that the delivery is `dead_letter`

So `failed` is seen for moments, and every refusal ends as a dead letter that can be redriven.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from bucky.cloudevents import CloudEvent, utc_now
from bucky.dicom.uids import new_uid
from bucky.dimse.outgoing import Outcome, StoreResult
from bucky.errors import Permanent
from bucky.events import CommitmentRequested, Delivery, DeliveryCompleted, DeliveryFailed, DeliveryRequested, payload_of
from bucky.forwarding import Senders
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryRow, DeliveryState, Index
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.destinations import commitment_of
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context
from bucky.store.objects import ObjectStore
from bucky.trace import trace_id
from forward_instances.already_there import settled
from forward_instances.content import Contents
from forward_instances.pace import DeliveryPace

BATCH_SECONDS = 20.0
"""No instance is begun later than this: an urgent delivery may be waiting for the end of the batch."""

ASKING_SECONDS = 900.0
"""So long after it was sent the keeper looks whether a commitment was asked for."""

_ATTEMPTS = {
    Outcome.STORED: AttemptOutcome.DELIVERED,
    Outcome.WARNED: AttemptOutcome.DELIVERED,
    Outcome.UNAVAILABLE: AttemptOutcome.RETRYING,
    Outcome.REFUSED: AttemptOutcome.FAILED,
}


@dataclass(slots=True)
class _Request:
    """One delivery to make, the event that asked for it, and whether the destination was given it.

    `begun` is whether it was tried at all, be it only to connect: what the index counts as an attempt.
    `transaction_uid` is that in which its destination is to be asked for a commitment, if it is.
    """

    cause: CloudEvent
    delivery: DeliveryRequested
    tried: bool = True
    begun: bool = True
    transaction_uid: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the caller is told of one event."""

    event: CloudEvent | None = None
    failure: ItemFailure | None = None


def handle_batch(
    events: Sequence[CloudEvent],
    ctx: Context,
    objects: ObjectStore,
    index: Index,
    crosswalks: Crosswalks,
    senders: Senders,
) -> BatchResult:
    """Make each delivery that is not made yet."""
    answers: list[_Answer] = []
    requests: dict[str, _Request] = {}
    for event in events:
        try:
            request = _read(event)
        except Permanent as error:
            answers.append(_Answer(failure=_failure(event, str(error), retryable=False)))
        else:
            requests.setdefault(request.delivery.delivery_id, request)
    traces = {name: trace_id(request.cause.traceparent) for name, request in requests.items()}
    pending = index.request_deliveries(
        [request.delivery for request in requests.values()],
        {name: trace for name, trace in traces.items() if trace is not None},
    )
    to_do = [requests[name] for name in pending]
    contents = Contents(objects, index, crosswalks)
    carried_out = list(_carried_out(to_do, contents, index, senders)) if to_do else []
    results = [(request, _with_known(request, result, contents, index)) for request, result in carried_out]
    index.delivery_attempted([_attempt(request, result, contents) for request, result in results])
    for request, result in results:
        _log(ctx, request, result)
        answers.append(_answer(ctx, request, result, contents))
    for name in requests.keys() - set(pending):
        answers.append(_settled(ctx, requests[name], index.delivery(name)))
    # A batch's instances are asked about together: one event for all of them.
    events_out = {one.nats_msg_id: one for one in (answer.event for answer in answers) if one is not None}
    return BatchResult(
        failures=tuple(answer.failure for answer in answers if answer.failure is not None),
        events=tuple(events_out.values()),
    )


def _read(event: CloudEvent) -> _Request:
    delivery = payload_of(event)
    if not isinstance(delivery, DeliveryRequested):
        raise Permanent(f"an event of type {event.type} is not a delivery to make")
    return _Request(event, delivery)


def _carried_out(
    requests: Sequence[_Request], contents: Contents, index: Index, senders: Senders
) -> Iterator[tuple[_Request, StoreResult]]:
    """Send to each destination in turn; the caller normally gives us the deliveries of one."""
    routing = index.routing()
    by_destination: dict[str, list[_Request]] = defaultdict(list)
    for request in requests:
        by_destination[request.delivery.destination].append(request)
    for name, group in by_destination.items():
        destination = routing.document.destination(name)
        if destination is None:
            gone = f"there is no destination {name!r} in routing version {routing.version}"
            gone += "; add it and redrive, or dismiss it"
            yield from ((request, StoreResult(Outcome.REFUSED, gone)) for request in group)
        else:
            if commitment_of(destination) is not None:
                uid = new_uid()
                for request in group:
                    request.transaction_uid = uid
            pace = DeliveryPace(name, destination, utc_now(), index.take_bandwidth)
            corrections = index.corrections([request.delivery.instance.sha256 for request in group])
            yield from _paced(group, contents, corrections, pace, partial(senders.send, destination))


def _paced(
    requests: Sequence[_Request],
    contents: Contents,
    corrections: Mapping[str, frozenset[str]],
    pace: DeliveryPace,
    send: Callable[..., list[StoreResult]],
) -> Iterator[tuple[_Request, StoreResult]]:
    """Send what the destination's hours allow, no faster than its cap; put off the rest."""
    going: list[_Request] = []
    for request in requests:
        closed = pace.closed(request.delivery.priority)
        if closed is None:
            going.append(request)
        else:
            request.tried = request.begun = False
            yield request, StoreResult(Outcome.UNAVAILABLE, closed[0], retry_after=closed[1])
    if not going:
        return
    pace.expect(sum(request.delivery.instance.size for request in going))
    items = [
        contents.prepared(
            one.delivery,
            partial(pace.through, one.delivery),
            corrections.get(one.delivery.instance.sha256, frozenset()),
        )
        for one in going
    ]
    seconds = pace.seconds(BATCH_SECONDS, [request.delivery.priority for request in going])
    for request, result in zip(going, send(items, seconds=seconds), strict=True):
        request.tried = request.delivery.delivery_id in pace.begun or result.outcome is not Outcome.UNAVAILABLE
        request.begun = request.tried or result.begun
        yield request, result


def _with_known(request: _Request, result: StoreResult, contents: Contents, index: Index) -> StoreResult:
    """Return what a result means with what is known of earlier sendings of the same delivery."""
    if not result.exists:
        return result
    name = request.delivery.delivery_id
    earlier = index.delivery(name).unanswered_sha256
    sent = contents.digest(request.delivery)
    return settled(result, sent, sent if result.unanswered else earlier, commits=request.transaction_uid is not None)


def _attempt(request: _Request, result: StoreResult, contents: Contents) -> DeliveryAttempt:
    """Return what the index keeps: the one place where the destination's own words are kept too."""
    name, outcome = request.delivery.delivery_id, _ATTEMPTS[result.outcome]
    answered, sent = f"{result.answer} {result.comment}".strip(), contents.sent.get(name)
    tables = ", ".join(f"{table} {version}" for table, version in sorted(contents.tables.get(name, {}).items()))
    attempt = DeliveryAttempt(
        name,
        outcome,
        result.reason,
        answered,
        tried=request.begun,
        sent_sha256=sent,
        crosswalks=tables,
        unanswered_sha256=contents.digest(request.delivery) if result.unanswered else None,
    )
    if request.transaction_uid is None or not result.outcome.arrived:
        return attempt
    due_at = attempt.at + timedelta(seconds=ASKING_SECONDS)
    uid = request.transaction_uid
    return replace(attempt, outcome=AttemptOutcome.UNCOMMITTED, commitment_uid=uid, due_at=due_at)


def _answer(ctx: Context, request: _Request, result: StoreResult, contents: Contents) -> _Answer:
    if result.outcome.arrived and request.transaction_uid is not None:
        return _Answer(event=_ask(ctx, request, request.transaction_uid))
    if result.outcome.arrived:
        sent = contents.sent.get(request.delivery.delivery_id)
        payload = DeliveryCompleted(**_fields(request), completed_at=utc_now(), detail=result.reason, sent_sha256=sent)
        return _Answer(event=ctx.event(payload, request.cause))
    if result.outcome is Outcome.UNAVAILABLE:
        later = _failure(request.cause, result.reason, retryable=True, retry_after=result.retry_after)
        return _Answer(failure=later.model_copy(update={"attempted": request.tried}))
    return _Answer(
        event=ctx.event(DeliveryFailed(**_fields(request), failed_at=utc_now(), reason=result.reason), request.cause),
        failure=_failure(request.cause, result.reason, retryable=False),
    )


def _ask(ctx: Context, request: _Request, transaction_uid: str) -> CloudEvent:
    payload = CommitmentRequested(transaction_uid=transaction_uid, destination=request.delivery.destination)
    return ctx.event(payload, request.cause)


def _settled(ctx: Context, request: _Request, row: DeliveryRow) -> _Answer:
    """Answer again for a delivery settled before: whoever asked may have missed the first answer."""
    if row.state is DeliveryState.DELIVERED:
        completed_at = row.completed_at or row.updated_at
        payload = DeliveryCompleted(**_fields(request), completed_at=completed_at, sent_sha256=row.sent_sha256)
        return _Answer(event=ctx.event(payload, request.cause))
    if row.state is DeliveryState.UNCOMMITTED and row.commitment_uid is not None:
        return _Answer(event=_ask(ctx, request, row.commitment_uid))
    if row.state is DeliveryState.DISMISSED:
        return _Answer()
    redriven_meanwhile = row.state in {DeliveryState.REQUESTED, DeliveryState.RETRYING}
    failure = _failure(request.cause, row.reason, retryable=redriven_meanwhile)
    if row.state is DeliveryState.FAILED:
        # The keeper gives up deliveries too: this is where that is told.
        failed = DeliveryFailed(**_fields(request), failed_at=row.updated_at, reason=row.reason)
        return _Answer(event=ctx.event(failed, request.cause), failure=failure)
    return _Answer(failure=failure)


def _fields(request: _Request) -> dict[str, object]:
    return {name: getattr(request.delivery, name) for name in Delivery.model_fields}


def _failure(event: CloudEvent, reason: str, *, retryable: bool, retry_after: float | None = None) -> ItemFailure:
    return ItemFailure(item_identifier=event.id, retryable=retryable, retry_after=retry_after, reason=reason)


def _log(ctx: Context, request: _Request, result: StoreResult) -> None:
    delivery = request.delivery
    ctx.log.info(
        "delivery.attempted",
        delivery_id=delivery.delivery_id,
        destination=delivery.destination,
        sop_instance_uid=delivery.instance.sop_instance_uid,
        sha256=delivery.instance.sha256,
        outcome=result.outcome.value,
        answer=result.answer,
        reason=result.reason,
        seconds=round(result.seconds, 4),
        trace_id=trace_id(request.cause.traceparent),
    )
