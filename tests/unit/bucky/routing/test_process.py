"""Rules that call functions: what can be written, what is decided, and what keeps results from going round."""

from typing import Any

import pytest

from bucky.deciding.explain import explain, lines
from bucky.deciding.grouping import Grouping
from bucky.deciding.requests import facts_of, requests_of
from bucky.events import Processing, ProcessingRequested
from bucky.index import RoutingVersion
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.document import InvalidRouting, Routing
from bucky.routing.evaluation import Facts, evaluate
from bucky.routing.rules import Trigger
from bucky.text.identifiers import unit_sha256
from tests.support.functions.forwarding import NO_CROSSWALKS
from tests.support.index.rows import received

BY_COUNT = (Processing(function="counter", rule="count", rule_version=1, delivery_id="a" * 64),)
RULES = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
rules:
  - {name: count, trigger: study_stable, process: {function: counter}}
  - {name: each, process: {function: checker, parameters: {strict: true}}, destinations: [pacs]}
  - {name: results, when: {origin: function, equals: counter}, destinations: [pacs]}
  - {name: originals, when: {not: {origin: function, exists: true}}, destinations: [pacs]}
"""


def test_a_routing_says_the_same_when_it_was_written_out() -> None:
    """What `bucky routing show` prints can be applied again."""
    routing = Routing.from_yaml(RULES)
    assert Routing.from_yaml(routing.to_yaml()) == routing
    assert routing.functions() == {"counter", "checker"}


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("process: {function: pacs}", "a destination has that name"),
        ("process: {function: Bad_Name}", "line 2: rule 'r', process.function: a name has up to 40"),
        ("process: {function: f, timeout_seconds: 7200}", "less than or equal to 3000"),
        ("process: {function: f}, morph: [{delete: PatientName}]", "morph cannot go with process"),
        ("enabled: true", "has no destinations"),
        ("when: {origin: study, equals: x}, destinations: [pacs]", "'function' or 'rule'"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_written(rule: str, sentence: str) -> None:
    """An administrator is told at once, and not by dead letters."""
    destinations = "destinations: [{name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}]\n"
    with pytest.raises(InvalidRouting, match=sentence):
        Routing.from_yaml(f"{destinations}rules: [{{name: r, {rule}}}]")


def decided(processed: tuple[Processing, ...], trigger: Trigger) -> list[tuple[str, str]]:
    """Return destination and rule of what is decided."""
    evaluation = evaluate(Routing.from_yaml(RULES), Facts({}, processed=processed), trigger)
    return [(one.destination, one.rule) for one in evaluation.decisions]


def test_rules_can_ask_where_an_instance_came_from() -> None:
    """Results go where a rule for results says, and what was received where a rule for that says."""
    assert decided((), "instance") == [("pacs", "each"), ("checker", "each")]
    rules = [verdict.rule for verdict in evaluate(Routing.from_yaml(RULES), Facts({})).rules if verdict.matched]
    assert rules == ["each", "originals"]
    found = evaluate(Routing.from_yaml(RULES), Facts({}, processed=BY_COUNT)).rules
    assert [verdict.rule for verdict in found if verdict.matched] == ["each", "results"]


def test_what_came_out_of_a_rule_does_not_go_into_it_again() -> None:
    """A result is not processed by the rule that made it, however many functions were in between, and that is said."""
    assert decided((), "study_stable") == [("counter", "count")]
    later = (*BY_COUNT, Processing(function="checker", rule="each", rule_version=1, delivery_id="b" * 64))
    for chain, way in ((BY_COUNT, "counter"), (later, "counter → checker")):
        assert decided(chain, "study_stable") == []
        verdict = evaluate(Routing.from_yaml(RULES), Facts({}, processed=chain), "study_stable").rules[0]
        assert verdict.skipped == f"the instance came out of this rule: {way}"


def explained(**facts: Any) -> list[str]:
    """Return the lines of an explanation."""
    crosswalks: Crosswalks = NO_CROSSWALKS

    def header() -> Any:
        raise AssertionError("a function gets what was received: nothing is changed")

    return list(lines(explain(Routing.from_yaml(RULES), Facts({}, **facts), header, crosswalks)))


def test_an_explanation_names_the_function_and_what_it_gets() -> None:
    """`bucky rules test` shows that a function would be called, and with how much."""
    shown = explained()
    assert "goes to the function counter, with all that matches of its study (rule count)" in shown
    assert "goes to the function checker, alone (rule each)" in shown
    assert "rule count: not asked, the instance came out of this rule: counter" in explained(processed=BY_COUNT)
    assert "  ✓ origin function equals counter   found: counter" in explained(processed=BY_COUNT)


def gathered(trigger: Trigger, text: str, *names: str, **changes: Any) -> list[ProcessingRequested]:
    """Return what functions get of instances of these names."""
    gathering, version = Grouping(trigger), RoutingVersion(3, Routing.from_yaml(text), "test", None)
    for name in names:
        instance = received(name, **(changes if name.startswith("other") else {}))
        gathering.sift(requests_of(instance, facts_of(instance, {}), version, trigger))
    return gathering.gathered().requests


def test_a_study_is_one_request_whoever_comes_first() -> None:
    """The request is named by the instances, so a declaration that is repeated is the same request."""
    one, again = (gathered("study_stable", RULES, *names) for names in (("a", "b", "c"), ("c", "a", "b")))
    assert one == again
    (request,) = one
    digests = [received(name).sha256 for name in "abc"]
    assert (request.unit, request.unit_instances, request.unit_sha256) == ("study", 3, unit_sha256(digests))
    assert request.instance.sha256 == min(digests)
    assert gathered("study_stable", RULES, "a", "b", "c", "late")[0].delivery_id != request.delivery_id


def test_a_rule_that_waits_for_a_series_gives_each_by_itself() -> None:
    """With the trigger `series` a function gets a series at once, never two."""
    rules = "rules: [{name: s, trigger: series, process: {function: f}}]"
    requests = gathered("series", rules, "a", "b", "other", series_instance_uid="1.2.4")
    assert sorted((one.unit, one.unit_instances) for one in requests) == [("series", 1), ("series", 2)]


def test_other_parameters_are_another_processing() -> None:
    """A study is processed again when the rule gives the function other parameters, and not because of other edits."""
    text = "rules: [{name: s, trigger: study_stable, process: {function: f, parameters: {p: %s}}}]"
    one, two = (gathered("study_stable", text % value, "a")[0] for value in (1, 2))
    assert one.morph_sha256 != two.morph_sha256
    assert one.delivery_id != two.delivery_id
