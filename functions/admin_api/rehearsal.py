"""What rules would do, or would have done, with instances that were received: nothing is sent, nothing is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bucky.cloudevents import Priority
from bucky.deciding.requests import ParentsInIndex, facts_of, requests_of
from bucky.events import DeliveryRequested
from bucky.index import Index, InstanceRow, RoutingVersion
from bucky.routing.rules import TRIGGERS


@dataclass(frozen=True, slots=True)
class Planned:
    """How an instance goes to a destination: by which rule, how soon, and with which changes."""

    rule: str
    priority: Priority
    morph_sha256: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One destination for which a rehearsal differs; `rule` is the candidate's, `before` the one there was."""

    kind: Literal["added", "removed", "changed"]
    destination: str
    rule: str | None
    before: str | None
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DifferentInstance:
    """An instance that would go elsewhere, or otherwise."""

    sha256: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    received_at: datetime
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A page of a rehearsal: how many instances were looked at, and those that would differ."""

    instances: int
    different: tuple[DifferentInstance, ...]
    next: str | None


def asked(routing: RoutingVersion, instance: InstanceRow, parents: ParentsInIndex) -> list[DeliveryRequested]:
    """Return what the rules ask for, those that wait for series or study too, as the index knows these now."""
    received = instance.received()
    waits = any(rule.enabled and rule.trigger != "instance" for rule in routing.document.rules)
    facts = facts_of(received, instance.header, parents.of(received) if waits else None)
    requests: dict[str, DeliveryRequested] = {}
    for trigger in TRIGGERS if waits else TRIGGERS[:1]:
        for request in requests_of(received, facts, routing, trigger):
            requests.setdefault(request.destination, request)
    return list(requests.values())


def rehearse(
    index: Index, candidate: RoutingVersion, against: RoutingVersion | None, page: Sequence[InstanceRow]
) -> tuple[DifferentInstance, ...]:
    """Compare what a candidate asks for with what another version asks for, or with what was in fact requested."""
    parents = ParentsInIndex(index)
    recorded = _recorded(index, page) if against is None else {}
    found = []
    for instance in page:
        wanted = _planned(asked(candidate, instance, parents))
        before = recorded.get(instance.sha256, {}) if against is None else _planned(asked(against, instance, parents))
        differences = tuple(_differences(wanted, before))
        if differences:
            found.append(
                DifferentInstance(
                    instance.sha256,
                    instance.study_instance_uid,
                    instance.series_instance_uid,
                    instance.sop_instance_uid,
                    instance.received_at,
                    differences,
                )
            )
    return tuple(found)


def _planned(requests: Iterable[DeliveryRequested]) -> dict[str, Planned]:
    return {one.destination: Planned(one.rule, one.priority, one.morph_sha256) for one in requests}


def _recorded(index: Index, page: Sequence[InstanceRow]) -> dict[str, dict[str, Planned]]:
    """Return the latest delivery of each instance to each destination."""
    recorded: dict[str, dict[str, Planned]] = {}
    for row in index.deliveries_of({instance.sha256 for instance in page}):
        planned = Planned(row.rule, row.priority, row.morph_sha256)
        recorded.setdefault(row.sha256, {})[row.destination] = planned
    return recorded


def _differences(wanted: Mapping[str, Planned], before: Mapping[str, Planned]) -> Iterable[Difference]:
    for name in sorted(wanted.keys() | before.keys()):
        new, old = wanted.get(name), before.get(name)
        if old is None and new is not None:
            yield Difference("added", name, new.rule, None)
        elif new is None and old is not None:
            yield Difference("removed", name, None, old.rule)
        elif new is not None and old is not None:
            what = [
                text
                for text, is_other in (
                    ("morph", new.morph_sha256 != old.morph_sha256),
                    ("priority", new.priority != old.priority),
                )
                if is_other
            ]
            if what:
                yield Difference("changed", name, new.rule, old.rule, tuple(what))
