"""Decides by the routing rules where indexed instances go.

A decision is recorded before its event is returned, and the event is returned again for as long as the
delivery is not settled: after a crash in between, that heals the rest. Ids are deterministic, so deciding
twice under one version of the rules is one delivery. What an earlier version has sent, or is sending, to the
same destination in the same form is not requested again. Bytes that a decision set aside while their event waited
go nowhere: sent now, they would replace the right ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bucky.cloudevents import CloudEvent
from bucky.deciding.requests import facts_of, requested, to_request
from bucky.errors import Permanent, Retriable
from bucky.events import DeliveryRequested, InstanceIndexed, payload_of
from bucky.index import Index, InstanceRow, Routed, RoutingVersion
from bucky.routing.evaluation import evaluate
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context, failure_of
from bucky.trace import trace_id


@dataclass(frozen=True, slots=True)
class _Indexed:
    """An event and its payload."""

    event: CloudEvent
    instance: InstanceIndexed


@dataclass(frozen=True, slots=True)
class _Decided:
    """What the rules ask for, and whether any of them matched: one that matches may ask for nothing."""

    requests: list[DeliveryRequested]
    matched: bool


def handle_batch(events: Sequence[CloudEvent], ctx: Context, index: Index) -> BatchResult:
    """Route a batch: three reads and one transaction, however many instances."""
    indexed: list[_Indexed] = []
    failures: list[ItemFailure] = []
    for event in events:
        try:
            indexed.append(_Indexed(event, _instance(event)))
        except Permanent as error:
            failures.append(failure_of(event.id, error))
    routing = index.routing()
    rows = index.instances_by_digest({one.instance.sha256 for one in indexed})
    causes: dict[str, CloudEvent] = {}
    requests: dict[str, DeliveryRequested] = {}
    routed: list[Routed] = []
    for one in indexed:
        try:
            decided = _decided(one.instance, rows.get(one.instance.sha256), routing)
        except Retriable as error:
            failures.append(failure_of(one.event.id, error))
            continue
        if decided is None:
            _log_set_aside(ctx, one)
            continue
        causes[one.instance.sha256] = one.event
        requests.update({request.delivery_id: request for request in decided.requests})
        routed.append(Routed(one.instance.sha256, routing.version, len(decided.requests), decided.matched))
        _log(ctx, one, decided.requests, routing)
    events_out = _requested(list(requests.values()), routed, causes, ctx, index)
    return BatchResult(failures=tuple(failures), events=events_out)


def _instance(event: CloudEvent) -> InstanceIndexed:
    payload = payload_of(event)
    if not isinstance(payload, InstanceIndexed):
        raise Permanent(f"route-instance takes {InstanceIndexed.TYPE} events, not {event.type}")
    return payload


def _decided(instance: InstanceIndexed, row: InstanceRow | None, routing: RoutingVersion) -> _Decided | None:
    """Return what rules ask for, or None for bytes that are not current any more: an undo has them routed again."""
    if row is None:
        raise Retriable("the index does not have this instance: it is being rebuilt, or was restored from a copy")
    if row.conflict:
        return None
    # Another sender may have brought the same bytes before: what counts is who brought them now.
    evaluation = evaluate(routing.document, facts_of(instance, row.header))
    return _Decided(requested(row.received(), evaluation, routing), any(rule.matched for rule in evaluation.rules))


def _requested(
    requests: Sequence[DeliveryRequested],
    routed: Sequence[Routed],
    causes: Mapping[str, CloudEvent],
    ctx: Context,
    index: Index,
) -> tuple[CloudEvent, ...]:
    """Record the decisions; return an event for each delivery that is still to be done."""
    wanted = {request.delivery_id: request for request in to_request(index, requests)}
    traces = {name: trace_id(causes[request.instance.sha256].traceparent) for name, request in wanted.items()}
    known = {name: trace for name, trace in traces.items() if trace is not None}
    pending = index.request_deliveries(list(wanted.values()), known, routed)
    return tuple(ctx.event(wanted[name], causes[wanted[name].instance.sha256]) for name in pending)


def _log(ctx: Context, one: _Indexed, decided: list[DeliveryRequested], routing: RoutingVersion) -> None:
    ctx.log.info(
        "instance.routed",
        sop_instance_uid=one.instance.sop_instance_uid,
        sha256=one.instance.sha256,
        destinations=[request.destination for request in decided],
        rule_version=routing.version,
        trace_id=trace_id(one.event.traceparent),
    )


def _log_set_aside(ctx: Context, one: _Indexed) -> None:
    ctx.log.info(
        "instance.set_aside",
        sop_instance_uid=one.instance.sop_instance_uid,
        sha256=one.instance.sha256,
        reason="other bytes of this instance were accepted in its place",
        trace_id=trace_id(one.event.traceparent),
    )
