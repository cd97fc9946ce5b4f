"""Evaluating routing rules: pure functions from a routing and an instance's facts to decisions.

Each rule's verdict says for every condition whether it held, so that a decision can be explained. What a
condition found may be a patient value: show it to the user who asked, never log it.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import re2

from bucky.events import URGENT, Priority
from bucky.routing import (
    AllOf,
    AnyOf,
    AssociationTest,
    AttributeTest,
    Condition,
    Not,
    Operand,
    Routing,
    Rule,
    re2_options,
)

MAX_VALUE_LENGTH = 1024
MAX_VALUES = 1000


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules can ask about: the header (DICOM JSON model) and the association."""

    header: Mapping[str, Any]
    calling_aet: str = ""
    called_aet: str = ""
    source_address: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a condition held; `found` are the values a test saw, `parts` what a nested one is made of."""

    held: bool
    condition: str
    found: tuple[str, ...] = ()
    parts: tuple["Verdict", ...] = ()


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """Whether a rule matched and why; a disabled rule is not evaluated and has no reason."""

    rule: str
    matched: bool
    why: Verdict | None


@dataclass(frozen=True, slots=True)
class Decision:
    """An instance goes to a destination because of a rule: the first that named it.

    It is urgent when any rule that named it says so.
    """

    destination: str
    rule: str
    priority: Priority = "routine"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The decisions, the enabled destinations only, and how every rule came out."""

    decisions: tuple[Decision, ...]
    rules: tuple[RuleVerdict, ...]


def evaluate(routing: Routing, facts: Facts) -> Evaluation:
    """Evaluate every rule; each destination is decided on once however many rules name it."""
    verdicts = tuple(_judge(rule, facts) for rule in routing.rules)
    enabled = {destination.name for destination in routing.destinations if destination.enabled}
    decided: dict[str, Decision] = {}
    for rule, verdict in zip(routing.rules, verdicts, strict=True):
        for name in rule.destinations if verdict.matched else ():
            if name not in enabled:
                continue
            known = decided.setdefault(name, Decision(name, rule.name, rule.priority))
            if rule.priority == URGENT != known.priority:
                decided[name] = replace(known, priority=URGENT)
    return Evaluation(tuple(decided.values()), verdicts)


def holds(condition: Condition, facts: Facts) -> Verdict:
    """Return whether a condition holds, and why."""
    if isinstance(condition, AllOf):
        parts = tuple(holds(one, facts) for one in condition.all)
        return Verdict(all(part.held for part in parts), "all", parts=parts)
    if isinstance(condition, AnyOf):
        parts = tuple(holds(one, facts) for one in condition.any)
        return Verdict(any(part.held for part in parts), "any", parts=parts)
    if isinstance(condition, Not):
        part = holds(condition.not_, facts)
        return Verdict(not part.held, "not", parts=(part,))
    if isinstance(condition, AttributeTest):
        values = attribute_values(facts.header, condition.tag)
        return _tested(condition, condition.attribute, values, there=condition.tag in facts.header)
    if isinstance(condition, AssociationTest):
        value: str = getattr(facts, condition.association)
        return _tested(condition, condition.association, (value,) if value else (), there=bool(value))
    return Verdict(held=True, condition="always")


def attribute_values(header: Mapping[str, Any], tag: str) -> tuple[str, ...]:
    """Return an attribute's values as text; a person name counts whole and by component group."""
    element = header.get(tag) or {}
    values: list[str] = []
    for value in (element.get("Value") or ())[:MAX_VALUES]:
        if isinstance(value, dict) and element.get("vr") == "PN":
            groups = [str(value.get(name) or "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
            whole = "=".join(groups).rstrip("=")
            values.extend(dict.fromkeys([whole, *filter(None, groups)]))
        elif isinstance(value, str | int | float):
            values.append(str(value))
    return tuple(value[:MAX_VALUE_LENGTH] for value in values if value)


def _judge(rule: Rule, facts: Facts) -> RuleVerdict:
    if not rule.enabled:
        return RuleVerdict(rule.name, matched=False, why=None)
    why = holds(rule.when, facts)
    return RuleVerdict(rule.name, matched=why.held, why=why)


def _tested(test: AttributeTest | AssociationTest, name: str, values: tuple[str, ...], *, there: bool) -> Verdict:
    """Apply the one operator of a test: it holds when it holds for any of the values."""
    ((operator, operand),) = test.operators().items()
    matches = _OPERATORS.get(operator)
    held = any(matches(value, operand) for value in values) if matches else there is operand
    return Verdict(held, f"{name} {operator} {_shown(operand)}", found=values[:10])


def _shown(operand: Any) -> str:
    if isinstance(operand, tuple):
        return "[" + ", ".join(map(str, operand)) + "]"
    return str(operand).lower() if isinstance(operand, bool) else str(operand)


def _equals(value: str, operand: Operand) -> bool:
    return value == operand if isinstance(operand, str) else _number(value) == operand


def _is_in(value: str, operands: tuple[Operand, ...]) -> bool:
    return any(_equals(value, operand) for operand in operands)


def _contains(value: str, operand: str) -> bool:
    return operand in value


def _matches(value: str, pattern: str) -> bool:
    return _compiled(pattern).search(value.encode("utf-8", "replace").decode()) is not None


def _comparing(sign: Callable[[int], bool]) -> Callable[[str, Operand], bool]:
    """Compare as numbers where both are, else as text, in which dates and times are in order."""

    def compare(value: str, operand: Operand) -> bool:
        left, right = _number(value), _number(operand)
        if left is not None and right is not None:
            return sign((left > right) - (left < right))
        return isinstance(operand, str) and sign((value > operand) - (value < operand))

    return compare


def _number(value: Operand) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    """Compile with RE2, whose time is linear in the value: no pattern can hang a worker."""
    return re2.compile(pattern, re2_options())


_OPERATORS: Mapping[str, Callable[[str, Any], bool]] = {
    "equals": _equals,
    "in": _is_in,
    "contains": _contains,
    "regex": _matches,
    "gt": _comparing(lambda sign: sign > 0),
    "ge": _comparing(lambda sign: sign >= 0),
    "lt": _comparing(lambda sign: sign < 0),
    "le": _comparing(lambda sign: sign <= 0),
}
