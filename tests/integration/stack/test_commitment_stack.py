"""Storage commitment in a running stack: hours of waiting, and the end of any process, change nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryRow, DeliveryState
from bucky.routing.document import Routing
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.functions.commitment_world import Asked, CommittingNode
from tests.support.services.command_line import bucky
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("requestors_close_their_sockets")]
ROUTING = """
destinations:
  - name: archive
    type: dimse
    aet: DEMO
    host: 127.0.0.1
    port: PORT
    calling_aet: BUCKY
    commitment: {linger_seconds: 0, resend_after_seconds: 0}
  - name: away
    type: dimse
    aet: NOBODY
    host: 127.0.0.1
    port: 1
    give_up_after_hours: 0.001
rules:
  - name: to-archive
    when: {association: calling_aet, equals: CT1}
    destinations: [archive]
  - name: to-nobody
    when: {association: calling_aet, equals: CT2}
    destinations: [away]
"""


@pytest.fixture(scope="module")
def node(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommittingNode]:
    """The archive that all of what CT1 sends goes to."""
    with CommittingNode(tmp_path_factory.mktemp("archive")) as running:
        version = stack.index.routing().version
        stack.index.save_routing(Routing.from_yaml(ROUTING.replace("PORT", str(running.port))), version, "test")
        yield running


def _send(stack: RunningStack, some: list[Sample], calling_aet: str = "CT1") -> str:
    peer = Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet=calling_aet)
    results = store_all(peer, [one.outgoing for one in some], associations=1)
    assert {result.outcome for result in results} == {Outcome.STORED}
    return some[0].study_instance_uid


def _shown(stack: RunningStack, *arguments: str) -> Any:
    shown = bucky(stack.environ, *arguments, "--home", str(stack.home.path), "--json")
    assert shown.returncode == 0, shown.stderr + shown.stdout
    return json.loads(shown.stdout)["items"]


def _report(stack: RunningStack, node: CommittingNode, asked: list[Asked]) -> None:
    """Have the archive report, as it would again and again, until it is answered success."""
    for one in asked:
        eventually(lambda one=one: node.report(one, stack.ports.dicom) == 0, "the report was taken")  # type: ignore[misc]


def _about(node: CommittingNode, sent: list[Sample]) -> list[Asked]:
    uids = {one.sop_instance_uid for one in sent}
    return [one for one in node.asked if uids & set(one.instances)]


def _uncommitted(stack: RunningStack, study: str) -> list[DeliveryRow]:
    return stack.deliveries(study, DeliveryState.UNCOMMITTED)


def test_what_waits_for_a_commitment_outlives_every_process(stack: RunningStack, node: CommittingNode) -> None:
    """The archive reports after everything that could remember was killed; then, and not before, it is delivered."""
    sent = samples(4)
    study = _send(stack, sent)
    uids = {one.sop_instance_uid for one in sent}
    eventually(lambda: {uid for one in _about(node, sent) for uid in one.instances} == uids, "all were asked about")
    eventually(lambda: all(row.commitment_asks == 1 for row in _uncommitted(stack, study)), "asks are recorded")
    for program in ("edge", "connector", "provider", "keeper", "nats-server"):
        stack.kill(program)
    eventually(stack.healthy, "the stack is well again", seconds=90)
    shown = _shown(stack, "deliveries", "--study", study)
    assert {row["state"] for row in shown} == {"uncommitted"}
    assert all("an answer is due by" in row["commitment"] for row in shown)
    node.manners.lost.add(sent[0].sop_instance_uid)
    _report(stack, node, _about(node, sent))
    node.manners.lost.clear()
    eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == 3, "three are delivered")
    eventually(lambda: len(_about(node, sent[:1])) == 2, "the lost one was sent again, and asked about")
    _report(stack, node, _about(node, sent[:1])[-1:])
    eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == 4, "all are delivered")
    steps = [step["step"] for step in _shown(stack, "timeline", sent[0].sop_instance_uid) if step["destination"]]
    assert steps == ["requested", "uncommitted", "retrying", "uncommitted", "delivered"]


def test_what_waits_too_long_is_a_dead_letter_that_can_be_sent_again(
    stack: RunningStack, node: CommittingNode, tmp_path: Path
) -> None:
    """A destination that stays away ends in dead letters with the reason; redriven, they arrive where it is now."""
    sent = samples(3)
    study = _send(stack, sent, "CT2")
    eventually(lambda: len(stack.deliveries(study, DeliveryState.DEAD_LETTER)) == 3, "all are dead letters", seconds=90)
    for row in stack.deliveries(study):
        assert row.reason.startswith("given up after 3.6 s, waiting since ")
        assert "NOBODY@127.0.0.1:1 cannot be reached" in row.reason or "it was never tried" in row.reason
    letters = _shown(stack, "dead-letters", "list", "--destination", "away")
    assert len(letters) == 3
    with CommittingNode(tmp_path / "nobody", aet="NOBODY") as nobody:
        document = ROUTING.replace("PORT", str(node.port)).replace("port: 1\n", f"port: {nobody.port}\n")
        stack.index.save_routing(Routing.from_yaml(document), stack.index.routing().version, "test")
        shown = bucky(stack.environ, "dead-letters", "redrive", "--destination", "away", "--home", str(stack.home.path))
        assert shown.returncode == 0, shown.stderr + shown.stdout
        eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == 3, "all are delivered")
        assert set(nobody.received()) == {one.sha256 for one in sent}
