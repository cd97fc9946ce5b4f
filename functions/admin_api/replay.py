"""Running past instances under a version of the rules: the same decisions, records and duplicates as live.

What is requested is in the index before it is published: a replay that breaks off is healed by running it again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from admin_api.broker_link import BrokerConnection
from admin_api.rehearsal import asked
from bucky.broker.connection import JetStreamPublisher
from bucky.cloudevents import CloudEvent
from bucky.deciding.grouping import of_study
from bucky.deciding.requests import ParentsInIndex, to_request
from bucky.events import DeliveryRequested, ProcessingRequested
from bucky.index import DeliveryState, Index, InstanceRow, RoutingVersion
from bucky.trace import child_of

SOURCE = "/bucky/admin-api"
PUBLISHED_AT_ONCE = 50


@dataclass
class Replayed:
    """A page of a replay: how many instances were looked at, and what became of the deliveries the rules ask for."""

    instances: int = 0
    requested: dict[str, int] = field(default_factory=dict)
    """Deliveries that were (or, in a trial, would be) published, by destination."""
    already: dict[str, int] = field(default_factory=dict)
    """Deliveries that were made, are under way, or have failed, in the same form, by destination."""
    gone: dict[str, int] = field(default_factory=dict)
    """Deliveries to destinations that are not in the routing in force, or disabled there."""
    next: str | None = None


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay: `again` also sends what has been sent, a `trial` neither writes nor sends."""

    version: RoutingVersion
    destinations: frozenset[str] = frozenset()
    again: bool = False
    trial: bool = False


async def replay(index: Index, link: BrokerConnection, order: ReplayRequest, page: Sequence[InstanceRow]) -> Replayed:
    """Run a page of instances; raise `BrokerUnavailable` when they cannot be published."""
    wanted, members, result = await asyncio.to_thread(_decided, index, order, page)
    if not order.trial:
        attempt = await asyncio.to_thread(_recorded, index, order, wanted, members, page)
        publisher = JetStreamPublisher(link.jetstream())
        traces = {instance.sha256: instance.trace_id for instance in page}
        events = [_event(one, traces.get(one.instance.sha256)) for one in wanted]
        for first in range(0, len(events), PUBLISHED_AT_ONCE):
            batch = events[first : first + PUBLISHED_AT_ONCE]
            await asyncio.gather(*(publisher.publish(event, attempt.get(event.id, "")) for event in batch))
    _count(result.requested, wanted)
    return result


def _decided(
    index: Index, order: ReplayRequest, page: Sequence[InstanceRow]
) -> tuple[list[DeliveryRequested], Mapping[str, Sequence[str]], Replayed]:
    """Return the deliveries to request, with the instances of those that take several, having counted the others."""
    result = Replayed(instances=len(page))
    document = index.routing().document
    in_force = {one.name for one in document.destinations if one.enabled} | document.functions()
    parents = ParentsInIndex(index)
    asked_for = [request for instance in page for request in asked(order.version, instance, parents)]
    requests, members = _gathered(index, order.version, asked_for)
    if order.destinations:
        requests = [request for request in requests if request.destination in order.destinations]
    _count(result.gone, [request for request in requests if request.destination not in in_force])
    requests = [request for request in requests if request.destination in in_force]
    if order.again:
        return requests, members, result
    new = to_request(index, requests)
    settled = {
        row.delivery_id
        for row in index.deliveries_of({request.instance.sha256 for request in new})
        if row.state is not DeliveryState.REQUESTED  # what is being tried again is in the stream
    }
    wanted = [request for request in new if request.delivery_id not in settled]
    kept = {request.delivery_id for request in wanted}
    _count(result.already, [request for request in requests if request.delivery_id not in kept])
    return wanted, members, result


def _gathered(
    index: Index, version: RoutingVersion, asked_for: Sequence[DeliveryRequested]
) -> tuple[list[DeliveryRequested], Mapping[str, Sequence[str]]]:
    """Return what is asked for, with all of a series or study as one request where a function gets it as one."""
    waits = {rule.name for rule in version.document.rules if rule.process is not None and rule.trigger != "instance"}
    alone = [one for one in asked_for if not (isinstance(one, ProcessingRequested) and one.rule in waits)]
    studies = {one.instance.study_instance_uid for one in asked_for if one.rule in waits}
    together: dict[str, DeliveryRequested] = {one.delivery_id: one for one in alone}
    members: dict[str, Sequence[str]] = {}
    for uid in sorted(studies):
        gathered = of_study(index, version, uid)
        together |= {one.delivery_id: one for one in gathered.requests}
        members |= gathered.members
    return list(together.values()), members


def _recorded(
    index: Index,
    order: ReplayRequest,
    wanted: Sequence[DeliveryRequested],
    members: Mapping[str, Sequence[str]],
    page: Sequence[InstanceRow],
) -> dict[str, str]:
    """Record the deliveries; return, for those that were made before, what tells this sending from earlier ones."""
    traces = {instance.sha256: instance.trace_id for instance in page}
    of_requests = {one.delivery_id: traces.get(one.instance.sha256) for one in wanted}
    known = {name: trace for name, trace in of_requests.items() if trace}
    of_several = {name: members[name] for name in of_requests if name in members}
    pending = set(index.request_deliveries(wanted, known, members=of_several))
    if not order.again:
        return {}
    settled = [one.delivery_id for one in wanted if one.delivery_id not in pending]
    before = {row.delivery_id: row for row in index.deliveries_of({one.instance.sha256 for one in wanted})}
    index.redriven(settled)
    return {name: f"replay-{before[name].updated_at.timestamp()}" for name in settled}


def _event(request: DeliveryRequested, trace: str | None) -> CloudEvent:
    traceparent = child_of(f"00-{trace}-{'0' * 16}-01" if trace else None)
    return CloudEvent.of(request, source=SOURCE, traceparent=traceparent)


def _count(counts: dict[str, int], requests: Sequence[DeliveryRequested]) -> None:
    for request in requests:
        counts[request.destination] = counts.get(request.destination, 0) + 1
