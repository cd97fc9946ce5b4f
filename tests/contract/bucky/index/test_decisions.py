"""Deciding which bytes are current: once, undoably, and the same after every rebuild."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from bucky.cloudevents import utc_now
from bucky.errors import Conflict, NotFound
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index, InstanceRows, StudyAttributes, StudyPart
from bucky.routing.corrections import ConflictDecision, Verdict
from tests.support.index.rows import RECEIVED_AT, digest, header, indexed, requested

UID = "1.2.3.99"
FIRST, SECOND, THIRD = digest("first"), digest("second"), digest("third")
NAMES = {"first": "Wrong^Name", "second": "Right^Name", "third": "Other^Name"}


def sent(name: str) -> Any:
    """Return bytes of the one instance that this is about."""
    return indexed(name, header(PatientName=NAMES[name]), sop_instance_uid=UID)


@pytest.fixture
def conflicted(index: Index) -> Index:
    """An index with an instance that came three times, each time with other bytes."""
    for name in NAMES:
        index.upsert_instances([sent(name)])
    return index


def current(index: Index) -> str | None:
    """Return which bytes are current."""
    found = index.current_instance(UID)
    return None if found is None else found.sha256


def test_a_study_shows_every_name_that_its_current_instances_say(conflicted: Index) -> None:
    """One instance of two accepted as corrected: the old name is still the other's, so both are shown, and flagged."""
    other = indexed("other", header(PatientName="Wrong^Name"), sop_instance_uid="1.2.3.100")
    conflicted.upsert_instances([other])
    conflicted.decide(SECOND, Verdict.ACCEPTED, "me")
    study = conflicted.study("1.2")
    assert {one.patient_name for one in study.patients} == {"Wrong^Name", "Right^Name"}
    assert (study.patient_count, study.several_names) == (1, True)
    conflicted.decide(SECOND, Verdict.REOPENED, "me")
    assert not conflicted.study("1.2").several_names


def test_a_note_on_a_decision_that_was_made_is_kept(conflicted: Index) -> None:
    """Who repeats a decision to say why finds the words on the timeline; nothing else changes, and undoing works."""
    first = conflicted.decide(SECOND, Verdict.ACCEPTED, "me")
    noted = conflicted.decide(SECOND, Verdict.ACCEPTED, "you", "seen in the RIS")
    assert (noted.number, noted.note, noted.swaps) == (2, "seen in the RIS", False)
    assert conflicted.decide(SECOND, Verdict.ACCEPTED, "you", "seen in the RIS") == noted
    assert conflicted.decide(SECOND, Verdict.ACCEPTED, "me") == noted
    assert (current(conflicted), open_ones(conflicted)) == (SECOND, {THIRD})
    assert conflicted.corrections([SECOND]) == {SECOND: frozenset({FIRST})}
    said = [step.detail for step in conflicted.timeline(UID) if step.step == "accepted"]
    assert said == ["by me", "by you seen in the RIS"]
    conflicted.decide(SECOND, Verdict.REOPENED, "me")
    assert (current(conflicted), open_ones(conflicted)) == (FIRST, {SECOND, THIRD})
    assert conflicted.decisions_about(UID)[0] == first


def test_bytes_in_a_conflict_are_found_by_how_their_digest_begins(conflicted: Index) -> None:
    """Nobody types 64 digits; a beginning that several have, or none, is refused."""
    conflicted.upsert_instances([indexed("elsewhere", header(), sop_instance_uid="1.2.3.100")])
    assert conflicted.conflict_digest(SECOND[:12]) == SECOND
    assert conflicted.conflict_digest(FIRST[:12]) == FIRST
    with pytest.raises(NotFound, match="bucky conflicts list"):
        conflicted.conflict_digest(digest("elsewhere")[:12])
    with pytest.raises(Conflict, match="more of its digits"):
        conflicted.conflict_digest("")


def test_conflicts_are_listed_open_decided_or_all(conflicted: Index) -> None:
    """What was decided must be found again, or nobody can undo it."""
    conflicted.decide(SECOND, Verdict.REJECTED, "me")
    listed = {decided: {row.sha256 for row in conflicted.conflicts(decided=decided)} for decided in (False, True, None)}
    assert listed == {False: {THIRD}, True: {SECOND}, None: {SECOND, THIRD}}


def open_ones(index: Index) -> set[str]:
    """Return which bytes await a decision."""
    found = {row.sha256 for row in index.conflicts()}
    assert index.open_conflicts() == len(found)
    return found


def test_accepted_bytes_take_the_place_of_the_first(conflicted: Index) -> None:
    """The accepted ones are current, the study shows their name, the first are aside, and the third still open."""
    assert open_ones(conflicted) == {SECOND, THIRD}
    decision = conflicted.decide(SECOND, Verdict.ACCEPTED, "me", "the name was wrong")
    assert (decision.current_sha256, decision.other_sha256, decision.swaps) == (SECOND, FIRST, True)
    assert current(conflicted) == SECOND
    assert open_ones(conflicted) == {THIRD}
    assert conflicted.corrections([FIRST, SECOND, THIRD]) == {SECOND: frozenset({FIRST})}
    study = conflicted.study("1.2")
    assert (study.patient_name, study.instance_count, study.conflict_count) == ("Right^Name", 1, 2)
    assert conflicted.miscounted_studies() == []


def test_rejected_bytes_stay_aside_and_are_not_asked_about_again(conflicted: Index) -> None:
    """Sent once more by a stubborn sender they are no open conflict."""
    conflicted.decide(SECOND, Verdict.REJECTED, "me")
    assert (current(conflicted), open_ones(conflicted)) == (FIRST, {THIRD})
    conflicted.upsert_instances([sent("second")])
    assert open_ones(conflicted) == {THIRD}


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.REJECTED])
def test_every_decision_can_be_repeated_and_undone(conflicted: Index, verdict: Verdict) -> None:
    """Twice is once; undone, all is as it was; and decided again, it is decided."""
    first = conflicted.decide(SECOND, verdict, "me")
    assert conflicted.decide(SECOND, verdict, "me") == first
    undone = conflicted.decide(SECOND, Verdict.REOPENED, "me")
    assert conflicted.decide(SECOND, Verdict.REOPENED, "me") == undone
    assert (current(conflicted), open_ones(conflicted)) == (FIRST, {SECOND, THIRD})
    assert conflicted.study("1.2").patient_name == "Wrong^Name"
    again = conflicted.decide(SECOND, verdict, "me")
    assert [one.number for one in (first, undone, again)] == [1, 2, 3]
    steps = [step.step for step in conflicted.timeline(UID)]
    assert [step for step in steps if step in set(Verdict)] == [verdict, "reopened", verdict]


def test_decisions_about_several_bytes_follow_each_other(conflicted: Index) -> None:
    """An acceptance over an acceptance is undone from its end: one step back each time."""
    conflicted.decide(SECOND, Verdict.ACCEPTED, "me")
    conflicted.decide(THIRD, Verdict.ACCEPTED, "me")
    assert (current(conflicted), open_ones(conflicted)) == (THIRD, set())
    with pytest.raises(Conflict, match="set aside for others"):
        conflicted.decide(SECOND, Verdict.REOPENED, "me")
    conflicted.decide(THIRD, Verdict.REOPENED, "me")
    assert (current(conflicted), open_ones(conflicted)) == (SECOND, {THIRD})
    conflicted.decide(SECOND, Verdict.REOPENED, "me")
    assert (current(conflicted), open_ones(conflicted)) == (FIRST, {SECOND, THIRD})


def test_what_makes_no_sense_is_refused_and_changes_nothing(conflicted: Index) -> None:
    """Accepting or rejecting what is current, undoing what was not decided, and bytes nobody knows."""
    for sha256, verdict in ((FIRST, Verdict.ACCEPTED), (FIRST, Verdict.REJECTED), (SECOND, Verdict.REOPENED)):
        with pytest.raises(Conflict):
            conflicted.decide(sha256, verdict, "me")
    with pytest.raises(NotFound):
        conflicted.decide("0" * 64, Verdict.ACCEPTED, "me")
    assert conflicted.decisions() == []


def test_what_waits_to_be_sent_of_the_old_bytes_is_not_sent(conflicted: Index) -> None:
    """A delivery of the old bytes that came later would replace the right ones: it fails, and says why."""
    waiting, delivered = requested("first"), requested("first", "archive")
    conflicted.request_deliveries([waiting, delivered])
    conflicted.delivery_attempted([DeliveryAttempt(delivered.delivery_id, AttemptOutcome.DELIVERED)])
    conflicted.decide(SECOND, Verdict.ACCEPTED, "me")
    row = conflicted.delivery(waiting.delivery_id)
    assert (row.state, "other bytes of this instance were accepted" in row.reason) == (DeliveryState.FAILED, True)
    assert conflicted.delivery(delivered.delivery_id).state is DeliveryState.DELIVERED


def rebuild(index: Index, found: Sequence[ConflictDecision], names: Sequence[str]) -> None:
    """Rebuild an index from decisions and objects, each object in a part of its own."""
    index.restore_decisions(found)
    began, _ = index.begin_reindex("bucky", restart=True)
    attributes = StudyAttributes()
    for name in names:
        last = name == names[-1]
        part = StudyPart(
            "1.2", [InstanceRows.of(sent(name))], attributes, frozenset(map(digest, names)) if last else None
        )
        index.rebuild([part], began)
    index.finish_reindex(began)


@pytest.mark.parametrize("names", [["first", "second", "third"], ["third", "second", "first"]])
def test_a_rebuild_decides_nothing_anew(index_url: str, names: list[str]) -> None:
    """From decisions and objects alone, in any order, the accepted bytes are current and the rejected not open."""
    index = Index.open(index_url)
    index.migrate()
    moments = [RECEIVED_AT.replace(minute=minute) for minute in range(1, 4)]
    settled = {FIRST: 1, THIRD: 2}
    found = [
        made(1, Verdict.ACCEPTED, SECOND, FIRST, {FIRST: 1}, moments[0]),
        made(2, Verdict.REJECTED, THIRD, SECOND, settled, moments[1]),
    ]
    rebuild(index, list(reversed(found)), names)
    assert (current(index), open_ones(index)) == (SECOND, set())
    study = index.study("1.2")
    assert (study.patient_name, study.instance_count, study.conflict_count) == ("Right^Name", 1, 2)
    assert index.decisions_about(UID) == found
    assert index.decisions_to_carry_out(utc_now()) == []
    rebuild(index, found, names)
    assert (current(index), index.decisions_about(UID)) == (SECOND, found)
    index.decide(SECOND, Verdict.REOPENED, "me")
    assert (current(index), open_ones(index)) == (FIRST, {SECOND})
    index.close()


def made(
    number: int, verdict: Verdict, sha256: str, other: str, settled: dict[str, int], at: datetime
) -> ConflictDecision:
    """Return a decision as the bucket has it."""
    return ConflictDecision(
        sop_instance_uid=UID,
        number=number,
        verdict=verdict,
        sha256=sha256,
        other_sha256=other,
        current_sha256=SECOND,
        settled=settled,
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        decided_at=at,
        author="me",
        note="",
    )


def test_no_decision_overwrites_another_in_the_bucket(conflicted: Index) -> None:
    """Each has a key of its own, in the order of time."""
    for verdict in (Verdict.ACCEPTED, Verdict.REOPENED, Verdict.REJECTED):
        conflicted.decide(SECOND, verdict, "me")
    keys = [one.key for one in conflicted.decisions_about(UID)]
    assert all(earlier < later for earlier, later in pairwise(keys))


def test_the_later_decision_holds_whatever_the_clock_says(conflicted: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waited for another, or was made after a clock was set back, must not be lost behind the earlier one."""
    conflicted.decide(SECOND, Verdict.ACCEPTED, "me")
    early = utc_now() - timedelta(days=365)
    monkeypatch.setattr("bucky.index.api.utc_now", lambda: early)
    later = conflicted.decide(THIRD, Verdict.ACCEPTED, "you")
    assert (current(conflicted), open_ones(conflicted)) == (THIRD, set())
    assert conflicted.decisions()[0] == later
