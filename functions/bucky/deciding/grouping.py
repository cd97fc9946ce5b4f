"""From what rules decide of each instance of a series or study to one request for all that a function gets of it.

The request is named by the digests of its instances: the same instances are one processing, however often the
study is declared stable, and what comes later makes another.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bucky.deciding.requests import ParentsInIndex, facts_of, requests_of
from bucky.events import DeliveryRequested, ProcessingRequested
from bucky.index import Index, RoutingVersion
from bucky.routing.rules import Trigger
from bucky.text.identifiers import Unit, delivery_id, unit_sha256

_UNITS: dict[Trigger, Unit] = {"series": "series", "study_stable": "study"}
_READ_AT_ONCE = 500


@dataclass
class Grouped:
    """Requests, and the digests of the instances that each takes."""

    requests: list[ProcessingRequested] = field(default_factory=list)
    members: dict[str, list[str]] = field(default_factory=dict)

    def add(self, request: ProcessingRequested, digests: list[str]) -> None:
        """Add one of several instances."""
        self.requests.append(request)
        self.members[request.delivery_id] = digests


class Grouping:
    """Gathers what functions get of the instances that a trigger is asked about."""

    def __init__(self, trigger: Trigger) -> None:
        self._unit: Unit = _UNITS.get(trigger, "instance")
        self._of: dict[tuple[str, str, str], list[str]] = {}
        self._least: dict[tuple[str, str, str], ProcessingRequested] = {}

    def sift(self, requests: Iterable[DeliveryRequested]) -> list[DeliveryRequested]:
        """Keep what functions get, for `gathered`; return the rest."""
        rest: list[DeliveryRequested] = []
        for request in requests:
            if self._unit == "instance" or not isinstance(request, ProcessingRequested):
                rest.append(request)
                continue
            series = request.instance.series_instance_uid if self._unit == "series" else ""
            key = (request.rule, request.destination, series)
            self._of.setdefault(key, []).append(request.instance.sha256)
            if key not in self._least or request.instance.sha256 < self._least[key].instance.sha256:
                self._least[key] = request
        return rest

    def gathered(self) -> Grouped:
        """Return one request for each function, rule, and series or study."""
        made = Grouped()
        for key, digests in self._of.items():
            least, what = self._least[key], unit_sha256(digests)
            named = delivery_id(what, least.destination, least.rule_version, least.morph_sha256)
            taken = {"unit": self._unit, "unit_sha256": what, "unit_instances": len(digests)}
            made.add(least.model_copy(update={**taken, "delivery_id": named}), digests)
        return made


def of_study(index: Index, rules: RoutingVersion, study_uid: str) -> Grouped:
    """Return what rules that wait for a series or study give to functions, as the index knows the study now."""
    parents, after = ParentsInIndex(index), ""
    gatherings = {trigger: Grouping(trigger) for trigger in _UNITS}
    while page := index.study_with_headers(study_uid, after=after, limit=_READ_AT_ONCE):
        after = page[-1].sha256
        for row in page:
            received = row.received()
            facts = facts_of(received, row.header, parents.of(received))
            for trigger, gathering in gatherings.items():
                gathering.sift(requests_of(received, facts, rules, trigger))
    made = Grouped()
    for gathering in gatherings.values():
        found = gathering.gathered()
        for request in found.requests:
            made.add(request, found.members[request.delivery_id])
    return made
