"""Evaluating routing rules: pure functions from a routing and an instance's facts to decisions.

Each rule's verdict says for every condition whether it held, so that a decision can be explained. What a
condition found may be a patient value: show it to the user who asked, never log it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from bucky.cloudevents import URGENT, Priority, utc_now
from bucky.dicom.padding import without_padding
from bucky.events import Processing
from bucky.routing.attributes import AttributeValue, attribute_values, is_there
from bucky.routing.conditions import (
    AllOf,
    AnyOf,
    AssociationTest,
    AttributeTest,
    Condition,
    Not,
    Operand,
    OriginTest,
    SeriesTest,
    StudyTest,
    ValueTest,
)
from bucky.routing.document import Routing
from bucky.routing.ordering import comes_in_order, equal, order
from bucky.routing.provenance import in_words
from bucky.routing.rules import Process, Rule, Trigger
from bucky.routing.unknown import UNKNOWN
from bucky.text.patterns import found_in

SHOWN_VALUES = 10
_ORDERING = {"gt", "ge", "lt", "le"}


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """What is known of a stable study: the modalities of its series, how much there is, and of how many patients."""

    modalities: tuple[str, ...]
    series_count: int
    instance_count: int
    patient_count: int = 1


@dataclass(frozen=True, slots=True)
class SeriesFacts:
    """What is known of a stable series."""

    instance_count: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules can ask about: the header (DICOM JSON model), the association, the study and series when stable.

    `received_at` decides whether a rule is active, so that deciding again gives the same.
    """

    header: Mapping[str, Any]
    calling_aet: str = ""
    called_aet: str = ""
    source_address: str = ""
    listener: str = ""
    received_at: datetime = field(default_factory=utc_now)
    study: StudyFacts | None = None
    series: SeriesFacts | None = None
    processed: tuple[Processing, ...] = ()


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """Whether a condition held; `found` are the values a test saw, `parts` what a nested one is made of."""

    held: bool
    condition: str
    found: tuple[str, ...] = ()
    parts: tuple["ConditionResult", ...] = ()


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Whether a rule matched and why; one that was not evaluated has no `why`, but says why it was `skipped`."""

    rule: str
    matched: bool
    why: ConditionResult | None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class RuleDecision:
    """An instance goes to a destination because of a rule: the first that named it.

    It is urgent when any rule that named it says so. With `process`, the destination is a function; each rule
    that names one gives it what that rule matched.
    """

    destination: str
    rule: str
    priority: Priority = "routine"
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The decisions, the enabled destinations only, and how every rule came out."""

    decisions: tuple[RuleDecision, ...]
    rules: tuple[RuleResult, ...]


def evaluate(routing: Routing, facts: Facts, trigger: Trigger = "instance") -> Evaluation:
    """Evaluate the rules of a trigger, in order; each destination is decided on once however many rules name it."""
    verdicts: list[RuleResult] = []
    enabled = {destination.name for destination in routing.destinations if destination.enabled}
    decided: dict[str, RuleDecision] = {}
    over = ""
    for rule in routing.rules:
        skipped = _skipped(rule, facts, trigger) or (over and f"rule {over!r} matched first")
        verdict = _judge(rule, facts, skipped)
        verdicts.append(verdict)
        if verdict.matched:
            for name in (name for name in rule.destinations if name in enabled):
                known = decided.setdefault(name, RuleDecision(name, rule.name, rule.priority))
                if rule.priority == URGENT != known.priority:
                    decided[name] = replace(known, priority=URGENT)
            if rule.process is not None:
                function = rule.process.function
                decided[f"{function}/{rule.name}"] = RuleDecision(function, rule.name, rule.priority, rule.process)
            if routing.match == "first":
                over = rule.name
    return Evaluation(tuple(decided.values()), tuple(verdicts))


def holds(condition: Condition, facts: Facts) -> ConditionResult:
    """Return whether a condition holds, and why."""
    if isinstance(condition, AllOf):
        parts = tuple(holds(one, facts) for one in condition.all)
        return ConditionResult(all(part.held for part in parts), "all", parts=parts)
    if isinstance(condition, AnyOf):
        parts = tuple(holds(one, facts) for one in condition.any)
        return ConditionResult(any(part.held for part in parts), "any", parts=parts)
    if isinstance(condition, Not):
        part = holds(condition.not_, facts)
        return ConditionResult(not part.held, "not", parts=(part,))
    if isinstance(condition, AttributeTest):
        values = attribute_values(facts.header, condition.path, condition.vr)
        return _tested(condition, condition.attribute, values, there=is_there(facts.header, condition.path))
    if isinstance(condition, AssociationTest):
        return _known(condition, condition.association, getattr(facts, condition.association))
    if isinstance(condition, StudyTest):
        return _known(condition, f"study {condition.study}", _of(facts.study, condition.study))
    if isinstance(condition, OriginTest):
        names = tuple(getattr(one, condition.origin) for one in facts.processed)
        return _known(condition, f"origin {condition.origin}", names)
    if isinstance(condition, SeriesTest):
        return _known(condition, f"series {condition.series}", _of(facts.series, condition.series))
    return ConditionResult(held=True, condition="always")


def _judge(rule: Rule, facts: Facts, skipped: str) -> RuleResult:
    if skipped:
        return RuleResult(rule.name, matched=False, why=None, skipped=skipped)
    why = holds(rule.when, facts)
    return RuleResult(rule.name, matched=why.held, why=why)


def _skipped(rule: Rule, facts: Facts, trigger: Trigger) -> str:
    """Return why a rule is not even evaluated, or nothing."""
    if not rule.enabled:
        return "it is disabled"
    if rule.trigger != trigger:
        return f"it waits for the trigger {rule.trigger}"
    if rule.process is not None and rule.name in {one.rule for one in facts.processed}:
        return f"the instance came out of this rule: {in_words(facts.processed)}"
    if rule.active is not None and not rule.active.is_open(facts.received_at):
        return f"it was not active when the instance was received ({facts.received_at.isoformat(timespec='seconds')})"
    return ""


def _of(facts: StudyFacts | SeriesFacts | None, name: str) -> Any:
    return () if facts is None else getattr(facts, name)


def _known(test: AssociationTest | StudyTest | SeriesTest | OriginTest, name: str, value: Any) -> ConditionResult:
    """Apply a test to something that is no attribute: empty means that nobody knows it."""
    values = value if isinstance(value, tuple) else (value,)
    vr = "AE" if name in {"calling_aet", "called_aet"} else ""
    texts = tuple(AttributeValue(without_padding(str(one), vr), vr) for one in values if one != "")
    return _tested(test, name, texts, there=bool(texts))


def _tested(test: ValueTest, name: str, values: tuple[AttributeValue, ...], *, there: bool) -> ConditionResult:
    """Apply the one operator of a test: it holds when it holds for any of the values."""
    ((operator, operand),) = test.operators().items()
    if operator == "exists":
        held = there is operand
    elif operator == "only":
        known, unknown = _by_certainty(values)
        held = bool(known) and all(_is_in(value, operand) for value in known)
        held = held or any(_is_in(value, operand) for value in unknown)
    else:
        matches = _OPERATORS[operator]
        asked = values if operator in {"equals", "in"} else _by_certainty(values)[0]
        held = any(matches(value, operand) for value in asked)
    found = tuple(_seen(value, operator) for value in (_by_certainty(values)[0] or values)[:SHOWN_VALUES])
    return ConditionResult(held, f"{name} {operator} {_shown(operand)}", found=found)


def _seen(value: AttributeValue, operator: str) -> str:
    """Return a value for people; one without a place in the order that was asked for says so."""
    if operator in _ORDERING and not comes_in_order(value.text, value.vr):
        return f"{value.text} (not valid for its VR, {value.vr}, so it has no order)"
    return value.text


def _by_certainty(values: tuple[AttributeValue, ...]) -> tuple[tuple[AttributeValue, ...], tuple[AttributeValue, ...]]:
    """Return the values that are what they say, and the readings of those that may be a number of some kind."""
    unknown = tuple(value for value in values if value.vr == UNKNOWN)
    return (tuple(value for value in values if value.vr != UNKNOWN), unknown) if unknown else (values, ())


def _shown(operand: Any) -> str:
    if isinstance(operand, tuple):
        return "[" + ", ".join(map(str, operand)) + "]"
    return str(operand).lower() if isinstance(operand, bool) else str(operand)


def _equals(value: AttributeValue, operand: Operand) -> bool:
    return equal(value.text, operand, value.vr)


def _is_in(value: AttributeValue, operands: tuple[Operand, ...]) -> bool:
    return any(_equals(value, operand) for operand in operands)


def _contains(value: AttributeValue, operand: str) -> bool:
    return operand in value.text


def _matches(value: AttributeValue, pattern: str) -> bool:
    return found_in(pattern, value.text)


def _in_network(value: AttributeValue, networks: str | tuple[str, ...]) -> bool:
    try:
        address = ip_address(value.text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # A host's own bits in a network are no mistake: 10.1.2.3/16 is 10.1.0.0/16.
    wanted = (networks,) if isinstance(networks, str) else networks
    return any(address in ip_network(network, strict=False) for network in wanted)


def _comparing(sign: Callable[[int], bool]) -> Callable[[AttributeValue, Operand], bool]:
    def compare(value: AttributeValue, operand: Operand) -> bool:
        found = order(value.text, operand, value.vr)
        return found is not None and sign(found)

    return compare


_OPERATORS: Mapping[str, Callable[[AttributeValue, Any], bool]] = {
    "equals": _equals,
    "in": _is_in,
    "contains": _contains,
    "regex": _matches,
    "network": _in_network,
    "gt": _comparing(lambda sign: sign > 0),
    "ge": _comparing(lambda sign: sign >= 0),
    "lt": _comparing(lambda sign: sign < 0),
    "le": _comparing(lambda sign: sign <= 0),
}
