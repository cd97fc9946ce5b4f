"""Why an instance goes where it goes: every rule with its reasons, every delivery with what is changed on the way.

An explanation holds patients' values: it is for whoever asked, never for a log.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydicom.dataset import Dataset

from bucky.cloudevents import URGENT, Priority
from bucky.errors import BuckyError, Retriable
from bucky.morph.change import AttributeChange
from bucky.morph.splice import WantedChanges, change
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.document import Routing
from bucky.routing.evaluation import ConditionResult, Facts, RuleDecision, RuleResult, evaluate
from bucky.routing.rules import TRIGGERS, Rule

_GIVEN = {"instance": "instance", "series": "series", "study_stable": "study"}
_WITH = {
    "instance": "alone",
    "series": "with all that matches of its series",
    "study": "with all that matches of its study",
}


@dataclass(frozen=True, slots=True)
class Going:
    """A delivery that the rules ask for, or a function that is called; `problem` says why it would not be sent."""

    destination: str
    rule: str
    priority: Priority
    changes: tuple[AttributeChange, ...] = ()
    original_attributes: str = ""
    problem: str = ""
    given: str = ""
    """With a function, what it gets at once: `instance`, or all that matches of the `series` or `study`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """How every rule came out, in order, and what follows."""

    rules: tuple[RuleResult, ...]
    deliveries: tuple[Going, ...]


def explain(routing: Routing, facts: Facts, header: Callable[[], Dataset], crosswalks: Crosswalks) -> Explanation:
    """Explain a routing for an instance, as if its series and study were stable now.

    `header` reads the instance's header; it is called anew for each delivery that changes it.
    """
    evaluations = {trigger: evaluate(routing, facts, trigger) for trigger in TRIGGERS}
    verdicts = tuple(evaluations[rule.trigger].rules[number] for number, rule in enumerate(routing.rules))
    decided: dict[str, RuleDecision] = {}
    for trigger in TRIGGERS:
        for decision in evaluations[trigger].decisions:
            decided.setdefault(f"{decision.destination}/{decision.rule if decision.process else ''}", decision)
    return Explanation(verdicts, tuple(_going(decision, routing, header, crosswalks) for decision in decided.values()))


def _going(decision: RuleDecision, routing: Routing, header: Callable[[], Dataset], crosswalks: Crosswalks) -> Going:
    rule = routing.rule(decision.rule)
    if rule is not None and decision.process is not None:
        return Going(decision.destination, rule.name, decision.priority, given=_GIVEN[rule.trigger])
    if rule is None or not rule.morph:
        return Going(decision.destination, decision.rule, decision.priority)
    try:
        wanted = WantedChanges(rule.morph, crosswalks.among(routing.crosswalks), None)
        changes, problem = tuple(change(header(), wanted).changes), ""
    except BuckyError as error:
        changes, problem = (), f"{'it would wait' if isinstance(error, Retriable) else 'not sent'}: {error}"
    return Going(decision.destination, rule.name, decision.priority, changes, _kept(rule, changes), problem)


def _kept(rule: Rule, changes: tuple[AttributeChange, ...]) -> str:
    return rule.original_attributes if changes else ""


def lines(explanation: Explanation) -> Iterator[str]:
    """Yield an explanation as lines of text; values are as they came, so clean them before they reach a terminal."""
    for verdict in explanation.rules:
        if verdict.why is None:
            yield f"rule {verdict.rule}: not asked, {verdict.skipped}"
        else:
            yield f"rule {verdict.rule}: {'matches' if verdict.matched else 'does not match'}"
            yield from _reasons(verdict.why, 1)
    for going in explanation.deliveries:
        urgent = ", urgent" if going.priority == URGENT else ""
        where = f"the function {going.destination}, {_WITH[going.given]}" if going.given else going.destination
        yield f"goes to {where} (rule {going.rule}{urgent})"
        for one in going.changes:
            yield f"  {one.attribute}: {_values(one.before)} → {_values(one.after)}  ({one.action})"
        if going.original_attributes == "record":
            yield "  what was there before is recorded in OriginalAttributesSequence"
        if going.problem:
            yield f"  {going.problem}"
    if not explanation.deliveries:
        yield "goes nowhere"


def _reasons(verdict: ConditionResult, depth: int) -> Iterator[str]:
    sign, seen = "✓" if verdict.held else "✗", ""
    if not verdict.parts and verdict.condition != "always":
        seen = f"   found: {', '.join(verdict.found)}" if verdict.found else "   found: nothing"
    yield f"{'  ' * depth}{sign} {verdict.condition}{seen}"
    for part in verdict.parts:
        yield from _reasons(part, depth + 1)


def _values(values: tuple[str, ...] | None) -> str:
    if values is None:
        return "(absent)"
    return "\\".join(values) if any(values) else "(empty)"
