"""Sends instances to the destination that a rule chose, and records what the destination answered.

An instance is delivered when the destination itself answered success for it, and not before. Each outcome
is recorded before its event is acknowledged: after a crash in between, that batch is sent once more.

    the destination                    delivery becomes   the event
    answered success or a warning      delivered          done
    is away, busy, or rejects us       retrying           failed, to be tried again
    refuses this instance              failed             failed for good: the connector makes it a dead
                                                          letter, and with that the delivery is `dead_letter`

So `failed` is seen for moments, and every refusal ends as a dead letter that can be redriven.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bucky.contract import BatchResult, ItemFailure
from bucky.errors import Permanent
from bucky.events import CloudEvent, Delivery, DeliveryCompleted, DeliveryFailed, DeliveryRequested, utc_now
from bucky.handlers import Context
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryRow, DeliveryState, Index, RoutingVersion
from bucky.morph.crosswalks import Crosswalks
from bucky.objects import ObjectStore
from bucky.routing import Destination
from bucky.scu import Outcome, Peer, StoreResult, store_all
from bucky.trace import trace_id
from forward_instances.content import Contents

BATCH_SECONDS = 60.0
"""No instance is begun later than this: the caller waits for an answer to the whole batch."""

_ATTEMPTS = {
    Outcome.STORED: AttemptOutcome.DELIVERED,
    Outcome.UNAVAILABLE: AttemptOutcome.RETRYING,
    Outcome.REFUSED: AttemptOutcome.FAILED,
}


@dataclass(frozen=True, slots=True)
class _Request:
    """One delivery to make, and the event that asked for it."""

    cause: CloudEvent
    delivery: DeliveryRequested


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the caller is told of one event."""

    event: CloudEvent | None = None
    failure: ItemFailure | None = None


def handle_batch(
    events: Sequence[CloudEvent], ctx: Context, objects: ObjectStore, index: Index, crosswalks: Crosswalks
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
    results = list(_carried_out(to_do, contents, index.routing())) if to_do else []
    index.delivery_attempted([_attempt(request, result, contents) for request, result in results])
    for request, result in results:
        _log(ctx, request, result)
        answers.append(_answer(ctx, request, result, contents))
    for name in requests.keys() - set(pending):
        answers.append(_settled(ctx, requests[name], index.delivery(name)))
    return BatchResult(
        failures=tuple(answer.failure for answer in answers if answer.failure is not None),
        events=tuple(answer.event for answer in answers if answer.event is not None),
    )


def _read(event: CloudEvent) -> _Request:
    delivery = event.payload()
    if not isinstance(delivery, DeliveryRequested):
        raise Permanent(f"an event of type {event.type} is not a delivery to make")
    return _Request(event, delivery)


def _carried_out(
    requests: Sequence[_Request], contents: Contents, routing: RoutingVersion
) -> Iterator[tuple[_Request, StoreResult]]:
    """Send to each destination in turn; the caller normally gives us the deliveries of one."""
    by_destination: dict[str, list[_Request]] = defaultdict(list)
    for request in requests:
        by_destination[request.delivery.destination].append(request)
    for name, group in by_destination.items():
        destination = routing.document.destination(name)
        if destination is None:
            gone = f"there is no destination {name!r} in routing version {routing.version}; add it and redrive"
            yield from ((request, StoreResult(Outcome.REFUSED, gone)) for request in group)
        else:
            yield from zip(group, _sent(group, contents, destination), strict=True)


def _sent(requests: Sequence[_Request], contents: Contents, destination: Destination) -> list[StoreResult]:
    peer = Peer(
        aet=destination.aet,
        host=destination.host,
        port=destination.port,
        calling_aet=destination.calling_aet,
        timeout=destination.timeout_seconds,
        tls_ca_file=destination.tls_ca_file,
    )
    items = [contents.prepared(request.delivery) for request in requests]
    return store_all(peer, items, associations=destination.max_associations, seconds=BATCH_SECONDS)


def _attempt(request: _Request, result: StoreResult, contents: Contents) -> DeliveryAttempt:
    """Return what the index keeps: the one place where the destination's own words are kept too."""
    answered = "" if result.status is None else f"0x{result.status:04X} {result.comment}".strip()
    delivery_id = request.delivery.delivery_id
    sent = contents.sent.get(delivery_id)
    return DeliveryAttempt(delivery_id, _ATTEMPTS[result.outcome], result.reason, answered, sent_sha256=sent)


def _answer(ctx: Context, request: _Request, result: StoreResult, contents: Contents) -> _Answer:
    if result.outcome is Outcome.STORED:
        sent = contents.sent.get(request.delivery.delivery_id)
        payload = DeliveryCompleted(**_fields(request), completed_at=utc_now(), detail=result.reason, sent_sha256=sent)
        return _Answer(event=ctx.event(payload, request.cause))
    if result.outcome is Outcome.UNAVAILABLE:
        return _Answer(failure=_failure(request.cause, result.reason, retryable=True, retry_after=result.retry_after))
    return _Answer(
        event=ctx.event(DeliveryFailed(**_fields(request), failed_at=utc_now(), reason=result.reason), request.cause),
        failure=_failure(request.cause, result.reason, retryable=False),
    )


def _settled(ctx: Context, request: _Request, row: DeliveryRow) -> _Answer:
    """Answer again for a delivery settled before: whoever asked may have missed the first answer."""
    if row.state is DeliveryState.DELIVERED:
        completed_at = row.completed_at or row.updated_at
        payload = DeliveryCompleted(**_fields(request), completed_at=completed_at, sent_sha256=row.sent_sha256)
        return _Answer(event=ctx.event(payload, request.cause))
    redriven_meanwhile = row.state in {DeliveryState.REQUESTED, DeliveryState.RETRYING}
    return _Answer(failure=_failure(request.cause, row.reason, retryable=redriven_meanwhile))


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
        reason=result.reason,
        seconds=round(result.seconds, 4),
        trace_id=trace_id(request.cause.traceparent),
    )
