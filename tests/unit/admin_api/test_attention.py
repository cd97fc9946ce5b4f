"""The list of what needs attention."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from admin_api.attention import Attention, Known, needing_attention
from admin_api.health import PartHealth, TroubleFound
from bucky.index import Backlog, DeliveryState, Noticed, RoutingVersion
from bucky.routing.document import Routing
from bucky.runtime.trouble import State

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=3)
JUST_NOW = NOW - timedelta(seconds=1)
ROUTING = Routing.from_yaml("""
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: h, port: 104}
  - name: night
    type: dimse
    aet: N
    host: h
    port: 104
    schedule: {windows: [{from: "19:00", to: "06:00"}]}
rules: [{name: all, destinations: [pacs, night]}]
""")


def up(**detail: Any) -> PartHealth:
    """Return the health of a part that is up."""
    return PartHealth(status="up", milliseconds=1, detail=detail)


def connected(subject: str, held: str | None = None, **function: Any) -> dict[str, PartHealth]:
    """Return what the connector says of one function with one queue."""
    consumer = {"subject": f"dicom.delivery.requested.{subject}", "held": held, "pending": 7}
    shown = {"error": None, "breaker": "closed", "last_error": None, "consumers": [consumer], **function}
    return {"connector": up(functions={"forward-instances": shown})}


def deployed(**function: Any) -> dict[str, PartHealth]:
    """Return what the gateway says of one function."""
    return {"functions": up(functions={"parse-instance": {"replicas": 1, "available": 1, **function}})}


def found(routing: Routing | None = ROUTING, **known: Any) -> list[Attention]:
    """Return the list for what is known."""
    version = RoutingVersion(3, routing, "somebody", LONG_AGO) if routing else None
    return needing_attention(Known(**{"now": NOW, "parts": {}, "routing": version, **known}))


def backlog(state: DeliveryState, since: datetime, destination: str = "pacs") -> list[Backlog]:
    """Return five deliveries in one state."""
    return [Backlog(destination, state, 5, since)]


def trouble(part: str, state: State) -> list[TroubleFound]:
    """Return what a process says of one part that is not well."""
    return [TroubleFound(part=part, state=state, since=LONG_AGO, reason="no", effect="e", command="c")]


@pytest.mark.parametrize(
    ("known", "kind", "subject", "count", "since"),
    [
        ({"trouble": trouble("edge", "down")}, "part_down", "edge", 1, LONG_AGO),
        ({"trouble": trouble("stream DELIVERIES", "degraded")}, "part_unwell", "stream DELIVERIES", 1, LONG_AGO),
        ({"trouble": trouble("sweep", "degraded")}, "part_unwell", "sweep", 1, LONG_AGO),
        ({"parts": deployed(available=0, restarts=1)}, "function_down", "parse-instance", 0, None),
        ({"parts": deployed(restarts=3)}, "function_down", "parse-instance", 0, None),
        ({"parts": deployed(available=0)}, "function_down", "parse-instance", 0, None),
        ({"parts": connected("pacs", breaker="open")}, "function_down", "forward-instances", 7, None),
        ({"parts": connected("pacs", error="bad annotation")}, "function_down", "forward-instances", 7, None),
        ({"parts": connected("pacs", held="it is away")}, "destination_down", "pacs", 0, None),
        ({"parts": connected("pacs.urgent", held="it is away")}, "destination_down", "pacs", 0, None),
        ({"backlog": backlog(DeliveryState.RETRYING, LONG_AGO)}, "destination_down", "pacs", 5, LONG_AGO),
        ({"backlog": backlog(DeliveryState.REQUESTED, LONG_AGO)}, "destination_down", "pacs", 5, LONG_AGO),
        ({"backlog": backlog(DeliveryState.DEAD_LETTER, LONG_AGO)}, "dead_letters", "pacs", 5, LONG_AGO),
        ({"backlog": backlog(DeliveryState.FAILED, JUST_NOW)}, "dead_letters", "pacs", 5, JUST_NOW),
        ({"letters": {"parse-instance": Noticed(2, LONG_AGO)}}, "dead_letters", "parse-instance", 2, LONG_AGO),
        ({"conflicts": Noticed(1, LONG_AGO)}, "conflicts", "", 1, LONG_AGO),
        ({"unmatched": Noticed(4, JUST_NOW)}, "unmatched", "", 4, JUST_NOW),
        ({"routing": Routing()}, "no_rules", "", 1, LONG_AGO),
        ({"parts": {"edge": up(spool={"quarantined": 2})}}, "spool_quarantine", "edge", 2, None),
        (
            {"parts": {"keeper": up(reconcile={"wrong": True, "found": {"object_missing": 3}})}},
            "object_missing",
            "",
            3,
            None,
        ),
    ],
)
def test_each_cause_is_on_the_list(
    known: dict[str, Any], kind: str, subject: str, count: int, since: datetime | None
) -> None:
    """Beside any of these, nothing may say that all is well; each says what it means and what to do."""
    (item,) = found(**known)
    assert (item.kind, item.subject, item.count, item.since) == (kind, subject, count, since)
    assert item.cause
    assert item.effect
    assert item.command


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"parts": deployed() | connected("pacs") | {"keeper": up(trouble={}, reconcile=None), "edge": up()}},
        {"parts": deployed(replicas=0, available=0)},
        {"parts": deployed(restarts=1)},
        {"parts": connected("night", held="outside the hours of night")},
        {"backlog": backlog(DeliveryState.REQUESTED, LONG_AGO, "night")},
        {"backlog": backlog(DeliveryState.REQUESTED, JUST_NOW)},
        {"backlog": backlog(DeliveryState.RETRYING, JUST_NOW)},
        {"backlog": backlog(DeliveryState.UNCOMMITTED, LONG_AGO)},
        {"letters": {"forward-instances": Noticed(2, LONG_AGO)}},
        {"routing": None},
    ],
)
def test_what_is_as_it_should_be_is_not(known: dict[str, Any]) -> None:
    """A list that cries for nothing is not read."""
    assert found(**known) == []


@pytest.mark.parametrize("off", ["rule", "destination"])
def test_rules_that_lead_nowhere_are_no_rules(off: str) -> None:
    """A routing whose rules or destinations are all disabled sends as little as none."""
    destinations = [one.model_copy(update={"enabled": off != "destination"}) for one in ROUTING.destinations]
    rules = [rule.model_copy(update={"enabled": off != "rule"}) for rule in ROUTING.rules]
    (item,) = found(ROUTING.changed(destinations, rules))
    assert item.kind == "no_rules"
