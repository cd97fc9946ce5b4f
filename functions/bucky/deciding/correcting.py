"""Carrying out a decision: the bucket keeps it, and destinations get the bytes that are current now.

Every step may be done twice, so whoever is killed in between, the keeper does the rest.
"""

import asyncio

from bucky.broker.connection import Publisher
from bucky.cloudevents import CloudEvent, Payload
from bucky.errors import NotFound
from bucky.events import InstanceIndexed
from bucky.index import DeliveryState, Index, InstanceRow
from bucky.routing.corrections import ConflictDecision
from bucky.store.objects import ObjectStore, put_bytes
from bucky.trace import within

_ON_THE_WAY = {DeliveryState.REQUESTED, DeliveryState.RETRYING}


async def carry_out(
    decision: ConflictDecision, index: Index, objects: ObjectStore, publisher: Publisher, source: str
) -> tuple[str, ...]:
    """Do what follows from a decision, and record that it was done.

    Returns the names of the destinations that were sent these bytes before, and are not in the routing any more:
    nothing is sent there again.
    """
    content = decision.model_dump_json().encode()
    await asyncio.to_thread(put_bytes, objects, decision.key, content)
    events, gone = await asyncio.to_thread(_corrections, decision, index, source)
    for event in events:
        await publisher.publish(event)
    await asyncio.to_thread(index.decision_carried_out, decision)
    return gone


def _corrections(decision: ConflictDecision, index: Index, source: str) -> tuple[list[CloudEvent], tuple[str, ...]]:
    """Return the events that have the current bytes routed, and sent again where they were sent before.

    With the names of the destinations among those that are there no more.
    """
    if not decision.swaps:
        return [], ()
    try:
        row = index.instance(decision.current_sha256)
    except NotFound:
        return [], ()  # a lost object, which the reconciler reports
    if row.conflict:
        return [], ()  # decided otherwise since
    events = [_event(InstanceIndexed(**row.received().model_dump()), row, decision, source)]
    routing = index.routing().document
    ever = [one for one in index.deliveries_of([row.sha256]) if one.sha256 == row.sha256]
    sent = [one for one in ever if routing.is_there(one.destination)]
    again = [one for one in sent if one.state not in _ON_THE_WAY and one.updated_at < decision.decided_at]
    index.redriven([one.delivery_id for one in again])
    pending = again + [one for one in sent if one.state in _ON_THE_WAY]
    events += [_event(one.request(row.received()), row, decision, source) for one in pending]
    return events, tuple(sorted({one.destination for one in ever} - {one.destination for one in sent}))


def _event(payload: Payload, row: InstanceRow, decision: ConflictDecision, source: str) -> CloudEvent:
    event = CloudEvent.of(payload, source=source, traceparent=within(row.trace_id))
    return event.once_more(f"decision-{decision.number}")
