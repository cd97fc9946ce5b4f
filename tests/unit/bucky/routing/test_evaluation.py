"""Routing rules: what they decide, and what an administrator is told who writes them wrong."""

import time
from typing import Any

import pytest
from pydantic import TypeAdapter

from bucky.routing.conditions import Condition
from bucky.routing.document import InvalidRouting, Routing
from bucky.routing.evaluation import Facts, RuleDecision, evaluate, holds
from tests.support.index.rows import header

FACTS = Facts(
    header={
        **header(
            Modality="CT",
            PatientName="Doe^Jane",
            StudyDate="20240630",
            Rows=512,
            SliceThickness=0.625,
            StudyDescription="Thorax routine",
        ),
        "00080008": {"vr": "CS", "Value": ["ORIGINAL", "PRIMARY", "AXIAL"]},
        "00080080": {"vr": "LO"},
        "00091001": {"vr": "LO", "Value": ["private"]},
        "00090010": {"vr": "UN", "InlineBinary": "AAAA"},
        "00080096": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["x"]}}]},
        "00081030": {"vr": "LO", "Value": ["Thorax routine"]},
    },
    calling_aet="CT1",
    called_aet="BUCKY",
    source_address="10.1.2.3",
)


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ({}, True),
        ({"attribute": "Modality", "equals": "CT"}, True),
        ({"attribute": "Modality", "equals": "ct"}, False),
        ({"attribute": "00080060", "equals": "CT"}, True),
        ({"attribute": "(0008,0060)", "in": ["MR", "CT"]}, True),
        ({"attribute": "00091001", "contains": "priv"}, True),
        ({"attribute": "ImageType", "equals": "PRIMARY"}, True),
        ({"attribute": "ImageType", "equals": "DERIVED"}, False),
        ({"attribute": "PatientName", "equals": "Doe^Jane"}, True),
        ({"attribute": "StudyDescription", "contains": "routine"}, True),
        ({"attribute": "StudyDescription", "regex": "(?i)^thorax"}, True),
        ({"attribute": "StudyDescription", "regex": "^routine"}, False),
        ({"attribute": "Rows", "equals": 512}, True),
        ({"attribute": "Rows", "equals": "512"}, True),
        ({"attribute": "Rows", "in": [256, 512]}, True),
        ({"attribute": "Modality", "equals": 5}, False),
        ({"attribute": "SliceThickness", "lt": 1}, True),
        ({"attribute": "SliceThickness", "ge": "0.7"}, False),
        ({"attribute": "StudyDate", "ge": "20240101"}, True),
        ({"attribute": "StudyDate", "gt": 20240630}, False),
        ({"attribute": "StudyDate", "le": "20240630"}, True),
        ({"attribute": "Modality", "lt": "MR"}, True),
        ({"attribute": "Modality", "lt": 5}, False),
        ({"attribute": "PatientID", "equals": ""}, False),
        ({"attribute": "PatientID", "exists": True}, False),
        ({"attribute": "PatientID", "exists": False}, True),
        ({"attribute": "InstitutionName", "exists": True}, True),
        ({"attribute": "InstitutionName", "regex": ".*"}, False),
        ({"attribute": "00090010", "exists": True}, True),
        ({"attribute": "00090010", "equals": "AAAA"}, False),
        ({"attribute": "ReferringPhysicianIdentificationSequence", "equals": "x"}, False),
        ({"association": "calling_aet", "equals": "CT1"}, True),
        ({"association": "called_aet", "in": ["OTHER"]}, False),
        ({"association": "source_address", "regex": r"^10\."}, True),
        ({"not": {"attribute": "Modality", "equals": "CT"}}, False),
        ({"not": {"not": {}}}, True),
        ({"all": [{}, {"attribute": "Modality", "equals": "CT"}]}, True),
        ({"all": [{}, {"attribute": "Modality", "equals": "MR"}]}, False),
        ({"any": [{"attribute": "Modality", "equals": "MR"}, {"association": "calling_aet", "equals": "CT1"}]}, True),
        ({"any": [{"attribute": "Modality", "equals": "MR"}]}, False),
    ],
)
def test_conditions(condition: dict[str, Any], held: bool) -> None:
    """Each operator decides as its documentation says, on attributes and on the association."""
    assert holds(TypeAdapter[Any](Condition).validate_python(condition), FACTS).held is held


ROUTING = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
  - {name: archive, type: dimse, aet: ARCHIVE, host: 127.0.0.1, port: 11112, tls_ca_file: /etc/ca.pem}
  - {name: closed, type: dimse, aet: CLOSED, host: 127.0.0.1, port: 11112, enabled: false}
rules:
  - {name: ct, when: {attribute: Modality, equals: CT}, destinations: [pacs, closed]}
  - {name: all, destinations: [archive, pacs]}
  - {name: "off", enabled: false, destinations: [archive]}
  - {name: mr, when: {attribute: Modality, equals: MR}, destinations: [archive]}
"""


def test_each_destination_is_decided_on_once() -> None:
    """Two rules that name a destination send an instance there once; what is disabled takes nothing."""
    evaluation = evaluate(Routing.from_yaml(ROUTING), FACTS)
    assert evaluation.decisions == (RuleDecision("pacs", "ct"), RuleDecision("archive", "all"))
    assert [(one.rule, one.matched) for one in evaluation.rules] == [
        ("ct", True),
        ("all", True),
        ("off", False),
        ("mr", False),
    ]


def test_a_verdict_says_which_condition_failed() -> None:
    """A decision can be explained down to the condition, with what the condition saw."""
    condition = {"all": [{"association": "calling_aet", "equals": "CT1"}, {"not": {"attribute": "Rows", "gt": 100}}]}
    verdict = holds(TypeAdapter[Any](Condition).validate_python(condition), FACTS)
    assert [(part.held, part.condition) for part in verdict.parts] == [(True, "calling_aet equals CT1"), (False, "not")]
    assert verdict.parts[1].parts[0].found == ("512",)


def test_no_pattern_can_hang() -> None:
    """A pattern that takes other engines for ever is decided at once, on the longest value looked at."""
    facts = Facts(header(StudyDescription="a" * 5000 + "!"))
    condition = TypeAdapter[Any](Condition).validate_python({"attribute": "StudyDescription", "regex": "^(a+)+$"})
    started = time.thread_time()
    holds(condition, facts)
    assert time.thread_time() - started < 1


def test_a_routing_survives_yaml_and_json() -> None:
    """What is stored, and what is written back to a file, is what was read."""
    routing = Routing.from_yaml(ROUTING)
    assert Routing.model_validate(routing.model_dump(mode="json", by_alias=True)) == routing
    assert Routing.model_validate_json(routing.model_dump_json()) == routing
    assert Routing.from_yaml(routing.to_yaml()) == routing


RULE = "{name: r, when: WHEN, destinations: [pacs]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not valid YAML"),
        ("[1]", "the routing file"),
        ("x: 1", "x"),
        (ROUTING.replace("name: archive, type", "name: pacs, type"), "'pacs' is there twice"),
        (ROUTING.replace("name: all", "name: ct"), "'ct' is there twice"),
        (ROUTING.replace("[archive, pacs]", "[nowhere]"), "'nowhere', which does not exist"),
        (ROUTING.replace("[archive, pacs]", "[]"), "destinations"),
        (ROUTING.replace("port: 104", "port: 70000"), "port"),
        (ROUTING.replace("aet: PACS", "aet: A-TITLE-OF-17-CHR"), "aet"),
        (ROUTING.replace("name: pacs", "name: ../pacs"), "name"),
        (ROUTING.replace("type: dimse, aet: PACS", "type: pigeon, aet: PACS"), "type"),
        (ROUTING.replace("Modality, equals: CT", "Modalty, equals: CT"), "'Modalty' is neither"),
        (ROUTING.replace("equals: CT", "equals: CT, contains: C"), "exactly one of"),
        (ROUTING.replace("equals: CT", "equals: true"), "rule 'ct', when.equals: "),
        (ROUTING.replace(", equals: CT", ""), "exactly one of"),
        (ROUTING.replace("equals: CT", "regex: '(a'"), "RE2"),
        (ROUTING.replace("equals: CT", r"regex: '(a)\1'"), "RE2"),
        (ROUTING.replace("{attribute: Modality, equals: CT}", "{not: " * 40 + "{}" + "}" * 40), "nested"),
        ("[" * 100_000, "nested more than 64 deep"),
    ],
)
def test_a_wrong_routing_is_refused_in_a_sentence(text: str, said: str) -> None:
    """Who writes a routing wrong is told the place and the mistake, and the old one stays in force."""
    with pytest.raises(InvalidRouting, match=said):
        Routing.from_yaml(text)


def test_a_destination_gets_urgently_what_any_rule_calls_urgent() -> None:
    """Protects an urgent study whose destination an earlier, routine rule has named already."""
    routing = Routing.model_validate(
        {
            "destinations": [
                {"name": name, "type": "dimse", "aet": "X", "host": "h", "port": 104} for name in ("pacs", "archive")
            ],
            "rules": [
                {"name": "all", "destinations": ["pacs", "archive"]},
                {"name": "ct-first", "priority": "urgent", "destinations": ["pacs"]},
            ],
        }
    )
    assert evaluate(routing, FACTS).decisions == (
        RuleDecision("pacs", "all", "urgent"),
        RuleDecision("archive", "all", "routine"),
    )
