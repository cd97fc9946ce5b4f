"""From an instance and a version of the routing to the deliveries it asks for: the same live and in a replay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucky.events import DeliveryRequested, ProcessingRequested, ReceivedInstance
from bucky.index import DeliveryRow, DeliveryState, Index, RoutingVersion
from bucky.routing.evaluation import Evaluation, Facts, RuleDecision, SeriesFacts, StudyFacts, evaluate
from bucky.routing.rules import Process, Trigger
from bucky.text.identifiers import delivery_id

ON_THE_WAY = frozenset(
    {DeliveryState.REQUESTED, DeliveryState.RETRYING, DeliveryState.UNCOMMITTED, DeliveryState.DELIVERED}
)


@dataclass(frozen=True, slots=True)
class Parents:
    """What is known of an instance's study and series."""

    study: StudyFacts | None = None
    series: SeriesFacts | None = None


class ParentsInIndex:
    """The studies and series of instances as the index knows them now, each study read once."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[str, tuple[StudyFacts, dict[str, SeriesFacts]]] = {}

    def of(self, instance: ReceivedInstance) -> Parents:
        """Return what is known of an instance's study and series."""
        uid = instance.study_instance_uid
        if uid not in self._known:
            study = self._index.study(uid)
            series = {one.series_instance_uid: SeriesFacts(one.instance_count) for one in self._index.series(uid)}
            facts = StudyFacts(study.modalities, study.series_count, study.instance_count, study.patient_count)
            self._known[uid] = facts, series
        facts, its_series = self._known[uid]
        return Parents(facts, its_series.get(instance.series_instance_uid))


def facts_of(instance: ReceivedInstance, header: Mapping[str, Any] | None, parents: Parents | None = None) -> Facts:
    """Return what rules can ask about an instance."""
    return Facts(
        header=header or {},
        calling_aet=instance.calling_aet,
        called_aet=instance.called_aet,
        source_address=instance.source_address,
        listener=instance.listener,
        received_at=instance.received_at,
        study=parents.study if parents else None,
        series=parents.series if parents else None,
        processed=instance.processed,
    )


def requests_of(
    instance: ReceivedInstance, facts: Facts, routing: RoutingVersion, trigger: Trigger = "instance"
) -> list[DeliveryRequested]:
    """Return the deliveries that the rules of a trigger ask for."""
    return requested(instance, evaluate(routing.document, facts, trigger), routing)


def requested(instance: ReceivedInstance, evaluation: Evaluation, routing: RoutingVersion) -> list[DeliveryRequested]:
    """Return the deliveries that an evaluation asks for."""
    made: list[DeliveryRequested] = []
    for decision in evaluation.decisions:
        if decision.process is not None:
            made.append(given_alone(instance, decision, decision.process, routing.version))
            continue
        morph = routing.document.morph_sha256(decision.rule)
        made.append(
            DeliveryRequested(
                delivery_id=delivery_id(instance.sha256, decision.destination, routing.version, morph),
                destination=decision.destination,
                rule=decision.rule,
                rule_version=routing.version,
                instance=instance,
                priority=decision.priority,
                morph_sha256=morph,
            )
        )
    return made


def given_alone(
    instance: ReceivedInstance, decision: RuleDecision, process: Process, version: int
) -> ProcessingRequested:
    """Return the request to give an instance to a function; `bucky.deciding.grouping` makes one request of several."""
    how = process.parameters_sha256()
    return ProcessingRequested(
        delivery_id=delivery_id(instance.sha256, process.function, version, how),
        destination=process.function,
        rule=decision.rule,
        rule_version=version,
        instance=instance,
        priority=decision.priority,
        morph_sha256=how,
        unit="instance",
        unit_sha256=instance.sha256,
        unit_instances=1,
    )


def what_of(one: DeliveryRequested | DeliveryRow) -> str:
    """Return the digest of what a delivery takes: an instance, or all that a function is given at once."""
    if isinstance(one, DeliveryRow):
        return one.unit_sha256 or one.sha256
    return one.unit_sha256 if isinstance(one, ProcessingRequested) else one.instance.sha256


def to_request(index: Index, requests: Sequence[DeliveryRequested]) -> list[DeliveryRequested]:
    """Leave out what another version of the rules has sent, or is sending, there with the same changes.

    Otherwise every change of a rule would send everything that comes again, and every replay, once more. What
    another version has only asked for may never have been published: that is asked for again, as it was.
    """
    under_way: dict[tuple[str, str, str | None], list[DeliveryRow]] = {}
    for row in index.deliveries_of({request.instance.sha256 for request in requests}) if requests else ():
        if row.state in ON_THE_WAY:
            under_way.setdefault((what_of(row), row.destination, row.morph_sha256), []).append(row)
    found: list[DeliveryRequested] = []
    for request in requests:
        rows = under_way.get((what_of(request), request.destination, request.morph_sha256), [])
        if not rows or any(row.rule_version == request.rule_version for row in rows):
            found.append(request)
        elif all(row.state is DeliveryState.REQUESTED for row in rows):
            found.append(_as_it_was(request, rows[-1]))
    return found


def _as_it_was(request: DeliveryRequested, row: DeliveryRow) -> DeliveryRequested:
    recorded = {"delivery_id": row.delivery_id, "rule": row.rule, "rule_version": row.rule_version}
    return request.model_copy(update={**recorded, "priority": row.priority})
