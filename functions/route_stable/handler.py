"""Decides by the rules that wait for a series or study where its instances go, once that is stable.

Each instance is asked about with the facts of the event, so deciding again gives the same. An instance that
came after the study was declared stable waits for the next declaration; then all are asked about again, and
those that went before do not go again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bucky.cloudevents import CloudEvent
from bucky.deciding.grouping import Grouping
from bucky.deciding.requests import Parents, ParentsInIndex, facts_of, requests_of, to_request
from bucky.errors import Permanent
from bucky.events import DeliveryRequested, SeriesStable, StudyStable, payload_of
from bucky.index import Index, InstanceRow, RoutingVersion
from bucky.routing.evaluation import SeriesFacts, StudyFacts
from bucky.routing.rules import Trigger
from bucky.serve.handlers import Context
from bucky.trace import trace_id

AT_ONCE = 500
Stable = SeriesStable | StudyStable


@dataclass(frozen=True, slots=True)
class _Asking:
    """The rules that a declaration is for."""

    stable: Stable
    trigger: Trigger
    rules: RoutingVersion


def handle(event: CloudEvent, ctx: Context, index: Index) -> Iterator[CloudEvent]:
    """Ask about every instance, a page at a time; return an event for each delivery that is still to be done."""
    asking = _asking(event, index.routing())
    if not asking.rules.document.rules:
        return
    trace = trace_id(event.traceparent)
    parents, gathering = ParentsInIndex(index), Grouping(asking.trigger)
    instances = requested = 0
    for page in _pages(index, asking.stable):
        requests = [request for instance in page for request in _requests(asking, instance, parents)]
        for request in _requested(gathering.sift(requests), {}, trace, index):
            requested += 1
            yield ctx.event(request, event)
        instances += len(page)
    # What functions get is known when every instance was asked about.
    gathered = gathering.gathered()
    for request in _requested(gathered.requests, gathered.members, trace, index):
        requested += 1
        yield ctx.event(request, event)
    ctx.log.info(
        "study.routed" if isinstance(asking.stable, StudyStable) else "series.routed",
        study_instance_uid=asking.stable.study_instance_uid,
        series_instance_uid=asking.stable.series_uid() or None,
        revision=asking.stable.revision,
        instances=instances,
        requested=requested,
        rule_version=asking.rules.version,
        trace_id=trace,
    )


def _requested(
    requests: Sequence[DeliveryRequested], members: Mapping[str, Sequence[str]], trace: str | None, index: Index
) -> list[DeliveryRequested]:
    """Record what is to be done; return what is not done yet."""
    wanted = {request.delivery_id: request for request in to_request(index, requests)}
    traces = dict.fromkeys(wanted, trace) if trace else {}
    kept = {name: members[name] for name in wanted if name in members}
    return [wanted[name] for name in index.request_deliveries(list(wanted.values()), traces, members=kept)]


def _asking(event: CloudEvent, routing: RoutingVersion) -> _Asking:
    stable = payload_of(event)
    if not isinstance(stable, SeriesStable | StudyStable):
        raise Permanent(f"route-stable takes events of stable series and studies, not {event.type}")
    trigger: Trigger = "study_stable" if isinstance(stable, StudyStable) else "series"
    rules = [rule for rule in routing.document.rules if rule.trigger == trigger and stable.is_for(rule.quiet_seconds)]
    document = routing.document.model_copy(update={"rules": tuple(rules)})
    return _Asking(stable, trigger, RoutingVersion(routing.version, document, routing.author, routing.created_at))


def _pages(index: Index, stable: Stable) -> Iterator[list[InstanceRow]]:
    """Yield the instances that the declaration is about."""
    after, series = "", stable.series_uid() or None
    while page := index.study_with_headers(stable.study_instance_uid, series, after=after, limit=AT_ONCE):
        after = page[-1].sha256
        yield [row for row in page if row.indexed_at <= stable.last_instance_at]


def _requests(asking: _Asking, row: InstanceRow, parents: ParentsInIndex) -> list[DeliveryRequested]:
    received = row.received()
    facts = facts_of(received, row.header, _parents(asking.stable, row, parents))
    return requests_of(received, facts, asking.rules, asking.trigger)


def _parents(stable: Stable, row: InstanceRow, parents: ParentsInIndex) -> Parents:
    if isinstance(stable, SeriesStable):
        return Parents(series=SeriesFacts(stable.instance_count))
    now = parents.of(row.received())
    patient_count = now.study.patient_count if now.study else 1  # no event says anything of patients
    study = StudyFacts(stable.modalities, stable.series_count, stable.instance_count, patient_count)
    return Parents(study, now.series)
