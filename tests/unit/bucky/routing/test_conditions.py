"""Conditions on what has an order of its own, on sequences, networks and studies; when a rule is looked at at all."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bucky.routing.changes import ACTIONS
from bucky.routing.conditions import Condition
from bucky.routing.document import InvalidRouting, Routing, json_schema
from bucky.routing.evaluation import Facts, RuleDecision, SeriesFacts, StudyFacts, evaluate, holds
from bucky.text.documents import read_yaml
from tests.support.index.rows import header

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"
STEP = {"00400009": {"vr": "SH", "Value": ["S1"]}, "00400007": {"vr": "LO", "Value": ["Thorax"]}}
FACTS = Facts(
    header={
        **header(
            Modality="CT",
            StudyDate="20240630",
            StudyTime="093005.25",
            AcquisitionDateTime="20240630093005+0200",
            PatientAge="017Y",
            SeriesDate="2024.06.30",
            WindowCenter=40.0,
        ),
        "00400275": {"vr": "SQ", "Value": [STEP, {"00400009": {"vr": "SH", "Value": ["S2"]}}]},
        "00081140": {"vr": "SQ"},
    },
    source_address="::ffff:10.1.2.3",
    listener="BUCKY:11112",
    study=StudyFacts(modalities=("CT", "SR"), series_count=2, instance_count=120, patient_count=2),
    series=SeriesFacts(instance_count=100),
)


WRITTEN = Facts(
    header={
        **header(PatientID="0123", AccessionNumber="1e5", StudyTime="080000", BurnedInAnnotation="YES"),
        "00180050": {"vr": "DS", "Value": [1.5]},
        "00200013": {"vr": "IS", "Value": [5]},
        "00181020": {"vr": "LO", "Value": ["1.10"]},
        "00280030": {"vr": "FD", "Value": [0.1]},
    }
)


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ("{attribute: PatientID, equals: 0123}", True),
        ("{attribute: PatientID, equals: 123}", False),
        ("{attribute: PatientID, equals: 83}", False),
        ("{attribute: PatientID, in: [0012, 0123]}", True),
        ("{attribute: AccessionNumber, equals: 1e5}", True),
        ("{attribute: AccessionNumber, equals: 100000}", False),
        ("{attribute: BurnedInAnnotation, equals: YES}", True),
        ("{attribute: BurnedInAnnotation, equals: NO}", False),
        ("{attribute: SoftwareVersions, equals: 1.10}", True),
        ("{attribute: SoftwareVersions, equals: 1.1}", False),
        ("{attribute: SliceThickness, equals: 1.50}", True),
        ("{attribute: SliceThickness, equals: 1.5}", True),
        ("{attribute: SliceThickness, equals: '1.50'}", True),
        ("{attribute: InstanceNumber, equals: +5}", True),
        ("{attribute: InstanceNumber, equals: 05}", True),
        ("{attribute: PixelSpacing, equals: 0.10}", True),
        ("{attribute: StudyTime, ge: 12:30}", False),
        ("{attribute: StudyTime, ge: 07:30}", True),
        ("{attribute: StudyTime, ge: 0730}", True),
        ("{attribute: StudyTime, ge: 1200}", False),
        ("{attribute: StudyTime, equals: 08:00:00}", True),
        ("{attribute: StudyTime, lt: 930}", True),
    ],
)
def test_an_operand_without_quotes_is_what_was_written(condition: str, held: bool) -> None:
    """Nobody knows which of YAML's numbers are octal or sexagesimal, and a patient's id is no number."""
    read = TypeAdapter[Any](Condition).validate_python(read_yaml(condition))
    assert holds(read, WRITTEN).held is held


@pytest.mark.parametrize("operand", ["2026-02-30", "yesterday", "12"])
def test_what_a_date_cannot_be_compared_with_is_refused(operand: str) -> None:
    """A rule that can never hold must not look like one that did not yet."""
    with pytest.raises(ValidationError, match="no value of VR DA, the VR of StudyDate"):
        TypeAdapter[Any](Condition).validate_python({"attribute": "StudyDate", "ge": operand})


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ({"attribute": "StudyDate", "ge": "2024-06-30"}, True),
        ({"attribute": "StudyDate", "gt": "2024-06-30"}, False),
        ({"attribute": "StudyDate", "equals": "2024-06-30"}, True),
        ({"attribute": "StudyDate", "lt": 20240701}, True),
        ({"attribute": "SeriesDate", "equals": "20240630"}, True),
        ({"attribute": "StudyTime", "ge": "09:30"}, True),
        ({"attribute": "StudyTime", "lt": "09:30:05.3"}, True),
        ({"attribute": "StudyTime", "lt": "0930"}, False),
        ({"attribute": "StudyTime", "gt": 93000}, True),
        ({"attribute": "AcquisitionDateTime", "equals": "2024-06-30T07:30:05Z"}, True),
        ({"attribute": "AcquisitionDateTime", "lt": "20240630073006"}, True),
        ({"attribute": "AcquisitionDateTime", "ge": "2024"}, True),
        ({"attribute": "PatientAge", "lt": "018Y"}, True),
        ({"attribute": "PatientAge", "gt": "100M"}, True),
        ({"attribute": "PatientAge", "ge": "18Y"}, False),
        ({"attribute": "WindowCenter", "equals": 40}, True),
        ({"attribute": "Modality", "only": ["CT", "MR"]}, True),
        ({"attribute": "PatientID", "only": ["CT"]}, False),
        ({"attribute": "RequestAttributesSequence.ScheduledProcedureStepID", "equals": "S2"}, True),
        ({"attribute": "RequestAttributesSequence[0].ScheduledProcedureStepID", "equals": "S2"}, False),
        ({"attribute": "RequestAttributesSequence[1].00400009", "equals": "S2"}, True),
        ({"attribute": "RequestAttributesSequence[2].ScheduledProcedureStepID", "exists": True}, False),
        ({"attribute": "(0040,0275).ScheduledProcedureStepDescription", "regex": "^Th"}, True),
        ({"attribute": "ReferencedImageSequence.ReferencedSOPInstanceUID", "exists": True}, False),
        ({"attribute": "Modality.CodeValue", "exists": True}, False),
        ({"association": "source_address", "network": "10.1.0.0/16"}, True),
        ({"association": "source_address", "network": "10.1.9.9/16"}, True),
        ({"association": "source_address", "network": ["192.168.0.0/16", "fd00::/8"]}, False),
        ({"association": "listener", "equals": "BUCKY:11112"}, True),
        ({"association": "calling_aet", "exists": True}, False),
        ({"study": "modalities", "equals": "SR"}, True),
        ({"study": "modalities", "only": ["CT"]}, False),
        ({"study": "modalities", "only": ["CT", "SR", "MR"]}, True),
        ({"study": "patient_count", "gt": 1}, True),
        ({"study": "instance_count", "ge": 100}, True),
        ({"study": "series_count", "equals": 3}, False),
        ({"series": "instance_count", "gt": 99}, True),
    ],
)
def test_conditions_that_know_what_they_compare(condition: dict[str, Any], held: bool) -> None:
    """Dates, times and ages have their own order; sequences are entered; networks hold addresses."""
    assert holds(TypeAdapter[Any](Condition).validate_python(condition), FACTS).held is held


def test_what_nobody_knows_holds_for_nothing() -> None:
    """Without facts of the study, a condition on it does not hold, rather than fail or guess."""
    for condition in ({"study": "instance_count", "ge": 0}, {"series": "instance_count", "exists": True}):
        assert not holds(TypeAdapter[Any](Condition).validate_python(condition), Facts(header={})).held


ROUTING = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: pacs.example.org, port: 104}
  - {name: research, type: dimse, aet: RESEARCH, host: 127.0.0.1, port: 104}
match: first
rules:
  - {name: test-images, when: {association: calling_aet, equals: TEST}, destinations: []}
  - {name: emergency, when: {association: calling_aet, equals: ER}, priority: urgent, destinations: [pacs]}
  - name: at-night
    active: {time_zone: Europe/Berlin, windows: [{days: [mon, tue], from: "22:00", to: "06:00"}]}
    destinations: [research]
  - {name: whole-study, trigger: study_stable, when: {study: modalities, equals: MR}, destinations: [research]}
  - {name: rest, destinations: [pacs]}
"""
NIGHT, MORNING = datetime(2026, 11, 17, 4, 30, tzinfo=UTC), datetime(2026, 11, 17, 5, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("caller", "at", "decided"),
    [
        ("TEST", NIGHT, []),
        ("ER", NIGHT, [RuleDecision("pacs", "emergency", "urgent")]),
        ("CT1", NIGHT, [RuleDecision("research", "at-night")]),
        ("CT1", MORNING, [RuleDecision("pacs", "rest")]),
    ],
)
def test_the_first_rule_that_matches_decides_alone(caller: str, at: datetime, decided: list[RuleDecision]) -> None:
    """With `match: first` a rule keeps instances from all later ones, even by sending nowhere."""
    facts = Facts(header={}, calling_aet=caller, received_at=at)
    assert list(evaluate(Routing.from_yaml(ROUTING), facts).decisions) == decided


def test_one_urgent_rule_is_enough() -> None:
    """A destination that several rules name gets it as the first says, and soon if any of them says so."""
    routing = Routing.from_yaml(
        ROUTING.replace("match: first", "match: all").replace("destinations: []", "destinations: [pacs]")
    )
    facts = Facts(header={}, calling_aet="TEST", received_at=MORNING)
    assert evaluate(routing, facts).decisions == (RuleDecision("pacs", "test-images"),)
    hurried = Routing.from_yaml(routing.to_yaml().replace("name: rest", "name: rest\n  priority: urgent"))
    assert evaluate(hurried, facts).decisions == (RuleDecision("pacs", "test-images", "urgent"),)


def test_a_rule_that_is_not_evaluated_says_why() -> None:
    """Whoever asks why a rule did nothing is told that it was off, waiting, asleep, or came too late."""
    routing = Routing.from_yaml(ROUTING.replace("rest, ", "rest, enabled: false, "))
    verdicts = evaluate(routing, Facts(header={}, calling_aet="ER", received_at=MORNING)).rules
    assert [verdict.skipped for verdict in verdicts] == [
        "",
        "",
        "it was not active when the instance was received (2026-11-17T05:30:00+00:00)",
        "it waits for the trigger study_stable",
        "it is disabled",
    ]
    night = evaluate(routing, Facts(header={}, calling_aet="ER", received_at=NIGHT)).rules
    assert night[2].skipped == "rule 'emergency' matched first"


def test_a_stable_study_has_rules_of_its_own() -> None:
    """What waits for the whole study is decided when that is stable, and only then."""
    study = StudyFacts(("CT", "MR"), 2, 200)
    routing = Routing.from_yaml(ROUTING)
    assert evaluate(routing, Facts(header={}, study=study), "study_stable").decisions == (
        RuleDecision("research", "whole-study"),
    )
    assert evaluate(routing, Facts(header={}, study=study), "series").decisions == ()


@pytest.mark.parametrize(
    ("at", "is_open"),
    [
        ("2026-11-16T20:59:00+00:00", False),  # Monday 21:59 in Berlin
        ("2026-11-16T21:00:00+00:00", True),
        ("2026-11-17T04:59:59+00:00", True),
        ("2026-11-17T05:00:00+00:00", False),
        ("2026-11-18T03:00:00+00:00", True),  # Wednesday, in the window that began on Tuesday
        ("2026-11-18T22:00:00+00:00", False),
        ("2026-07-06T20:30:00+00:00", True),  # Monday 22:30 in summer time
    ],
)
def test_a_window_follows_its_time_zone_and_crosses_midnight(at: str, is_open: bool) -> None:
    """A window is in local time, summer or winter, and belongs to the day on which it begins."""
    rule = Routing.from_yaml(ROUTING).rule("at-night")
    assert rule is not None
    assert rule.active is not None
    assert rule.active.is_open(datetime.fromisoformat(at)) is is_open


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Europe/Berlin", "Europe/Berln", "IANA"),
        ('to: "06:00"', 'to: "22:00"', "empty"),
        ('to: "06:00"', 'to: "6 Uhr"', "pattern"),
        ("[mon, tue]", "[monday]", "mon"),
        ("trigger: study_stable", "trigger: series", "not complete yet with trigger 'series'"),
        ("match: first", "match: all", "has no destinations"),
        ("match: first", "match: last", "match"),
        ("urgent", "asap", "priority"),
        ("calling_aet, equals: ER", "calling_aet, network: 10.0.0.0/8", "goes with"),
        ("calling_aet, equals: ER", "source_address, network: 10.0.0.0/40", "not a network"),
        ("calling_aet, equals: ER", "caller, equals: ER", "calling_aet"),
        ("{association: calling_aet, equals: ER}", "{attribute: 'A.B', exists: true}", "neither"),
        ("{association: calling_aet, equals: ER}", "{attribute: 'Modality[0]', exists: true}", "ends with an item"),
        (
            "destinations: [pacs]}\n  - name",
            "morph: [{crosswalk: PatientID, table: x}], destinations: [pacs]}\n  - name",
            "'x'",
        ),
    ],
)
def test_a_rule_that_cannot_work_is_refused_in_a_sentence(old: str, new: str, said: str) -> None:
    """A mistake in the newer parts of a rule is named too, before it is in force."""
    assert old in ROUTING
    with pytest.raises(InvalidRouting, match=said):
        Routing.from_yaml(ROUTING.replace(old, new))


def test_unquoted_dates_and_times_mean_what_they_look_like() -> None:
    """YAML turns an unquoted 2024-06-30 into a date and 19:30 into a number; both are taken as they were written."""
    text = ROUTING.replace('from: "22:00", to: "06:00"', "from: 19:30, to: 22:15")
    text = text.replace("{association: calling_aet, equals: TEST}", "{attribute: StudyDate, lt: 2024-06-30}")
    routing = Routing.from_yaml(text)
    assert routing.rules[0].when.model_dump(exclude_none=True) == {"attribute": "StudyDate", "lt": "2024-06-30"}
    assert routing.rules[2].active is not None
    (window,) = routing.rules[2].active.windows
    assert (window.from_, window.to) == ("19:30", "22:15")


def test_all_of_it_survives_yaml_and_json() -> None:
    """Schedules, priorities, morphing and crosswalks come back from the database and from a file as they went."""
    text = (REFERENCE / "rules.md").read_text().split("```yaml\n")[1].split("```")[0]
    routing = Routing.from_yaml(text)
    assert {type(action) for rule in routing.rules for action in rule.morph} == set(ACTIONS)
    assert Routing.model_validate(routing.model_dump(mode="json", by_alias=True)) == routing
    assert Routing.model_validate_json(routing.model_dump_json(exclude_none=True)) == routing
    assert Routing.from_yaml(routing.to_yaml()) == routing


def test_the_published_schema_is_in_step() -> None:
    """The JSON Schema that editors and other programs use is the one the code makes."""
    assert json.loads((REFERENCE / "routing.schema.json").read_text()) == json_schema()
