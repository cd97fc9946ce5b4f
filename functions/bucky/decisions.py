"""From an instance and a version of the routing to the deliveries it asks for: the same live and in a replay."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucky.errors import NotFound
from bucky.events import DeliveryRequested, ReceivedInstance, delivery_id
from bucky.index import DeliveryRow, DeliveryState, Index, RoutingVersion
from bucky.routing import Routing
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
    return requested(instance, evaluate(routing.document, facts, trigger), routing.version)


def requested(instance: ReceivedInstance, evaluation: Evaluation, version: int) -> list[DeliveryRequested]:
    """Return the deliveries that an evaluation asks for."""
    return [
        DeliveryRequested(
            delivery_id=delivery_id(instance.sha256, decision.destination, version),
            destination=decision.destination,
            rule=decision.rule,
            rule_version=version,
            instance=instance,
            priority=decision.priority,
        )
        for decision in evaluation.decisions
    ]


@dataclass
class History:
    """Versions of the routing, each read once."""

    index: Index
    _documents: dict[int, Routing | None] = field(default_factory=dict)

    def document(self, version: int) -> Routing | None:
        """Return what a version said, or None when it is not there any more."""
        if version not in self._documents:
            try:
                self._documents[version] = self.index.routing_version(version).document
            except NotFound:
                self._documents[version] = None
        return self._documents[version]

    def form(self, version: int, rule: str) -> object:
        """Return what a rule of a version makes of an instance; None when nobody knows any more."""
        document = self.document(version)
        return None if document is None else document.form(rule)

    def same(self, row: DeliveryRow, request: DeliveryRequested) -> bool:
        """Return whether a delivery that is recorded takes to the destination what a request asks for."""
        if row.rule_version == request.rule_version or row.destination != request.destination:
            return False
        form = self.form(row.rule_version, row.rule)
        return form is not None and form == self.form(request.rule_version, request.rule)


def not_under_way(index: Index, requests: Sequence[DeliveryRequested]) -> list[DeliveryRequested]:
    """Leave out what an earlier version of the rules has sent, or is sending, there in the same form.

    Otherwise every change of a rule would send everything that comes again, and every replay, once more.
    """
    if not requests:
        return []
    earlier: dict[str, list[DeliveryRow]] = {}
    for row in index.deliveries_of({request.instance.sha256 for request in requests}):
        if row.state in ON_THE_WAY:
            earlier.setdefault(row.sha256, []).append(row)
    history = History(index)
    return [
        request
        for request in requests
        if not any(history.same(row, request) for row in earlier.get(request.instance.sha256, ()))
    ]
