"""Writes in the index that a delivery became a dead letter, with the reason.

Dead letters of other functions settle nothing in the index: they stay in the stream until redriven.
"""

from collections.abc import Sequence

from pydantic import ValidationError

from bucky.cloudevents import CloudEvent, DeadLettered, utc_now
from bucky.errors import Permanent
from bucky.events import DeliveryRequested, payload_of
from bucky.index import Index
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context, failure_of
from bucky.trace import trace_id


def handle_batch(events: Sequence[CloudEvent], ctx: Context, index: Index) -> BatchResult:
    """Record each dead letter; doing it again changes nothing."""
    failures: list[ItemFailure] = []
    for event in events:
        try:
            _record(event, ctx, index)
        except Permanent as error:
            failures.append(failure_of(event.id, error))
    return BatchResult(failures=tuple(failures), events=())


def _record(event: CloudEvent, ctx: Context, index: Index) -> None:
    dead = payload_of(event)
    if not isinstance(dead, DeadLettered):
        raise Permanent(f"record-dead-letter takes {DeadLettered.TYPE} events, not {event.type}")
    request = _delivery_in(dead)
    recorded = False
    if request is not None:
        # The row is missing when the index was rebuilt since: the dead letter must be seen all the same.
        trace = trace_id(event.traceparent)
        index.request_deliveries([request], {request.delivery_id: trace} if trace else None)
        at = event.time or utc_now()
        recorded = index.dead_letter(request.delivery_id, dead.reason, dead.attempts, at)
    ctx.log.warning(
        "deadletter.seen",
        function=dead.function,
        reason=dead.reason,
        attempts=dead.attempts,
        delivery_id=request.delivery_id if request else None,
        recorded=recorded,
        trace_id=trace_id(event.traceparent),
    )


def _delivery_in(dead: DeadLettered) -> DeliveryRequested | None:
    """Return the delivery that a dead letter is about, or None when it is about something else."""
    try:
        payload = payload_of(CloudEvent.model_validate(dead.event))
    except (ValidationError, Permanent):
        return None  # what could not be read is often why it became a dead letter
    return payload if isinstance(payload, DeliveryRequested) else None
