"""From an instance and a version of the routing to the deliveries it asks for: the same live and in a replay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucky.events import DeliveryRequested, ReceivedInstance, delivery_id
from bucky.index import DeliveryState, Index, RoutingVersion
from bucky.rules.evaluation import Evaluation, Facts, SeriesFacts, StudyFacts, evaluate
from bucky.rules.model import Trigger

ON_THE_WAY = frozenset({DeliveryState.REQUESTED, DeliveryState.RETRYING, DeliveryState.DELIVERED})


@dataclass(frozen=True, slots=True)
class Parents:
    """What is known of an instance's study and series."""

    study: StudyFacts | None = None
    series: SeriesFacts | None = None


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
    )


def requests_of(
    instance: ReceivedInstance, facts: Facts, routing: RoutingVersion, trigger: Trigger = "instance"
) -> list[DeliveryRequested]:
    """Return the deliveries that the rules of a trigger ask for."""
    return requested(instance, evaluate(routing.document, facts, trigger), routing)


def requested(instance: ReceivedInstance, evaluation: Evaluation, routing: RoutingVersion) -> list[DeliveryRequested]:
    """Return the deliveries that an evaluation asks for."""
    return [
        DeliveryRequested(
            delivery_id=delivery_id(instance.sha256, decision.destination, routing.version),
            destination=decision.destination,
            rule=decision.rule,
            rule_version=routing.version,
            instance=instance,
            priority=decision.priority,
            morph_sha256=routing.document.morph_sha256(decision.rule),
        )
        for decision in evaluation.decisions
    ]


def not_under_way(index: Index, requests: Sequence[DeliveryRequested]) -> list[DeliveryRequested]:
    """Leave out what another version of the rules has sent, or is sending, there with the same changes.

    Otherwise every change of a rule would send everything that comes again, and every replay, once more.
    """
    if not requests:
        return []
    under_way = {
        (row.sha256, row.destination, row.morph_sha256): row.rule_version
        for row in index.deliveries_of({request.instance.sha256 for request in requests})
        if row.state in ON_THE_WAY
    }

    def is_wanted(request: DeliveryRequested) -> bool:
        version = under_way.get((request.instance.sha256, request.destination, request.morph_sha256))
        return version in {None, request.rule_version}

    return [request for request in requests if is_wanted(request)]
