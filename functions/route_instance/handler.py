"""Decides by the routing rules where indexed instances go.

A decision is recorded before its event is returned, and the event is returned again for as long as the
delivery is not settled: after a crash in between, that heals the rest. Ids are deterministic, so deciding
twice under one version of the rules is one delivery.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bucky.contract import BatchResult, ItemFailure
from bucky.errors import Permanent, Retriable
from bucky.events import CloudEvent, DeliveryRequested, InstanceIndexed, delivery_id
from bucky.handlers import Context, failure_of
from bucky.index import Index, InstanceRow, Routed, RoutingVersion
from bucky.rules import Facts, evaluate
from bucky.trace import trace_id


@dataclass(frozen=True, slots=True)
class _Indexed:
    """An event and its payload."""

    event: CloudEvent
    instance: InstanceIndexed


def handle_batch(events: Sequence[CloudEvent], ctx: Context, index: Index) -> BatchResult:
    """Route a batch: two reads and one transaction, however many instances."""
    indexed: list[_Indexed] = []
    failures: list[ItemFailure] = []
    for event in events:
        try:
            indexed.append(_Indexed(event, _instance(event)))
        except Permanent as error:
            failures.append(failure_of(event.id, error))
    routing = index.routing()
    rows = index.instances_by_digest({one.instance.sha256 for one in indexed})
    requests: dict[str, tuple[CloudEvent, DeliveryRequested]] = {}
    routed: list[Routed] = []
    for one in indexed:
        try:
            decided = _decided(one.instance, rows.get(one.instance.sha256), routing)
        except Retriable as error:
            failures.append(failure_of(one.event.id, error))
            continue
        requests.update({request.delivery_id: (one.event, request) for request in decided})
        routed.append(Routed(one.instance.sha256, routing.version, len(decided)))
        _log(ctx, one, decided, routing)
    return BatchResult(failures=tuple(failures), events=_requested(requests, routed, ctx, index))


def _instance(event: CloudEvent) -> InstanceIndexed:
    payload = event.payload()
    if not isinstance(payload, InstanceIndexed):
        raise Permanent(f"route-instance takes {InstanceIndexed.TYPE} events, not {event.type}")
    return payload


def _decided(instance: InstanceIndexed, row: InstanceRow | None, routing: RoutingVersion) -> list[DeliveryRequested]:
    if row is None:
        raise Retriable("the index does not have this instance: it is being rebuilt, or was restored from a copy")
    facts = Facts(
        header=row.header or {},
        calling_aet=instance.calling_aet,
        called_aet=instance.called_aet,
        source_address=instance.source_address,
    )
    return [
        DeliveryRequested(
            delivery_id=delivery_id(instance.sha256, decision.destination, routing.version),
            destination=decision.destination,
            rule=decision.rule,
            rule_version=routing.version,
            instance=row.received(),
        )
        for decision in evaluate(routing.document, facts).decisions
    ]


def _requested(
    requests: dict[str, tuple[CloudEvent, DeliveryRequested]], routed: Sequence[Routed], ctx: Context, index: Index
) -> tuple[CloudEvent, ...]:
    """Record the decisions; return an event for each delivery that is still to be done."""
    traces = {one: trace for one, (cause, _) in requests.items() if (trace := trace_id(cause.traceparent))}
    pending = index.request_deliveries([request for _, request in requests.values()], traces, routed)
    return tuple(ctx.event(requests[one][1], requests[one][0]) for one in pending)


def _log(ctx: Context, one: _Indexed, decided: list[DeliveryRequested], routing: RoutingVersion) -> None:
    ctx.log.info(
        "instance.routed",
        sop_instance_uid=one.instance.sop_instance_uid,
        sha256=one.instance.sha256,
        destinations=[request.destination for request in decided],
        rule_version=routing.version,
        trace_id=trace_id(one.event.traceparent),
    )
