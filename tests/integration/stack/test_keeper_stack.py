"""The keeper in a running stack: stable studies, their timeline, and the commands that find the stack by its home."""

import json
from copy import deepcopy
from typing import Any

from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryState
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.services.command_line import bucky
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually


def _send(stack: RunningStack, some: list[Sample]) -> None:
    peer = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet="CT1")
    results = store_all(peer, [one.outgoing for one in some], associations=1)
    assert {result.outcome for result in results} == {Outcome.STORED}


def _command(stack: RunningStack, *arguments: str) -> Any:
    shown = bucky(stack.environ, *arguments, "--home", str(stack.home.path), "--json")
    assert shown.returncode == 0, shown.stderr + shown.stdout
    return json.loads(shown.stdout)


def _revisions(stack: RunningStack, study: str) -> set[int]:
    steps = stack.index.timeline(study)
    return {one.revision for one in steps if one.step == "study_stable" and one.revision}


def test_from_association_to_stable_in_one_trace(stack: RunningStack) -> None:
    """A study that was sent, delivered and quiet shows every step under the trace of its association."""
    sent = samples(5)
    study = sent[0].study_instance_uid
    _send(stack, sent)
    eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == 5, "delivered")
    eventually(lambda: _revisions(stack, study) == {1}, "stable")
    steps = _command(stack, "timeline", study)["items"]
    assert [one["step"] for one in steps if one["step"] != "series_stable"] == [
        "received",
        "stored",
        "indexed",
        "routed",
        "requested",
        "delivered",
        "study_stable",
    ]
    assert len({one["trace_id"] for one in steps}) == 1
    assert {one["instances"] for one in steps if not one["step"].endswith("_stable")} == {5}
    stable = next(one for one in steps if one["step"] == "study_stable")
    assert "nothing waits to be indexed" in stable["detail"]
    assert [one["at"] for one in steps] == sorted(one["at"] for one in steps)


def test_a_killed_keeper_goes_on(stack: RunningStack) -> None:
    """kill -9 of the keeper delays the news of a study, and a late instance still makes a new revision."""
    sent = samples(4)
    study = sent[0].study_instance_uid
    _send(stack, sent[:3])
    stack.kill("keeper")
    eventually(lambda: len(stack.instances(study)) == 3, "indexed")
    eventually(lambda: _revisions(stack, study) == {1}, "stable")
    _send(stack, sent[3:])
    stack.kill("keeper")
    eventually(lambda: _revisions(stack, study) == {1, 2}, "stable again")
    eventually(lambda: stack.index.unpublished_declarations() == [], "published")


def test_reindex_and_reconcile_find_the_stack(stack: RunningStack) -> None:
    """With the home alone both commands reach store, index and broker, and find everything right."""
    sent = samples(2)
    _send(stack, sent)
    eventually(lambda: len(stack.deliveries(sent[0].study_instance_uid, DeliveryState.DELIVERED)) == 2, "delivered")
    before = {row.sha256: row for row in stack.instances(sent[0].study_instance_uid)}
    report = _command(stack, "reindex")
    assert (report["new"], report["changed"], report["missing"]) == (0, 0, [])
    assert {row.sha256: row for row in stack.instances(sent[0].study_instance_uid)} == before
    found = _command(stack, "reconcile")
    assert not found["wrong"], found
    assert found["looked_at"]["objects"] == report["objects"]


def test_a_rule_that_waits_for_the_study_gets_it_whole_and_later_only_the_rest(stack: RunningStack) -> None:
    """What is stable goes where its rule says, all of it; a late instance goes by itself, and nothing twice."""
    folder = stack.home.path / "whole"
    folder.mkdir()
    current = stack.api.get("/api/routing")
    document = deepcopy(current["document"])
    document["destinations"].append({"name": "whole", "type": "folder", "folder": str(folder)})
    condition = {"study": "instance_count", "ge": 3}
    rule = {"name": "whole-study", "trigger": "study_stable", "when": condition, "destinations": ["whole"]}
    document["rules"].append({**rule, "priority": "urgent"})
    stack.api.put("/api/routing", document, current["version"])
    sent = samples(4)
    study = sent[0].study_instance_uid
    _send(stack, sent[:2])
    eventually(lambda: len(stack.instances(study)) == 2, "indexed")
    eventually(lambda: _revisions(stack, study) == {1}, "stable with two")
    _send(stack, sent[2:3])
    eventually(lambda: len(list(folder.rglob("*.dcm"))) == 3, "three are there once there are three")
    assert _revisions(stack, study) == {1, 2}
    _send(stack, sent[3:])
    eventually(lambda: len(list(folder.rglob("*.dcm"))) == 4, "the late one is there too")
    eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == 8, "both destinations have all")
    made = [one for one in stack.deliveries(study) if one.destination == "whole"]
    assert [(one.attempts, one.priority, one.rule) for one in made] == [(1, "urgent", "whole-study")] * 4
