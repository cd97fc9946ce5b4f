"""Storage commitment with real associations: a delivery is delivered when its destination committed to keeping it."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from bucky.cloudevents import CloudEvent, utc_now
from bucky.events import CommitmentReported, CommitmentRequested, DeliveryCompleted, DeliveryFailed, DeliveryRequested
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryRow, DeliveryState, Index, IndexedInstance
from bucky.routing.destinations import Destination
from bucky.serve.contract import BatchResult
from bucky.store.objects import MemoryObjectStore
from keeper.overdue import Overdue
from tests.support.destinations.destination_worlds import model
from tests.support.edge.upper_layer_world import UpperLayerWorld, stage
from tests.support.functions.commitment_world import (
    Asked,
    CommittingNode,
    MemoryLink,
    commit,
    report_of,
    reports_into,
    send_report,
)
from tests.support.functions.forwarding import forward, request, save_destination, uid_of
from tests.support.waiting import eventually

pytestmark = [pytest.mark.index, pytest.mark.usefixtures("requestors_close_their_sockets")]


@dataclass
class CommitmentWorld:
    """A node, an edge, and the functions in between; `link` is what the edge publishes to."""

    node: CommittingNode
    edge: UpperLayerWorld
    link: MemoryLink
    index: Index
    senders: Senders
    objects: MemoryObjectStore

    def destination(self, **commitment: Any) -> Destination:
        """Make the node the only destination, with such a commitment."""
        settings = {"linger_seconds": 0, "resend_after_seconds": 0, **commitment}
        made = model(name="pacs", type="dimse", aet="DEMO", host="127.0.0.1", port=self.node.port, commitment=settings)
        save_destination(self.index, made)
        return made

    def forward(self, events: Sequence[CloudEvent]) -> BatchResult:
        """Send."""
        return forward(events, self.objects, self.index, self.senders)

    def sent(self, count: int = 3) -> tuple[list[CloudEvent], CloudEvent]:
        """Send so many instances; return their requests, and the request to ask for their commitment."""
        events = [request(self.objects, number) for number in range(1, count + 1)]
        instances = [DeliveryRequested.model_validate(event.data).instance for event in events]
        self.index.upsert_instances([IndexedInstance(one, {}) for one in instances])
        result = self.forward(events)
        assert result.failures == ()
        (asking,) = result.events
        assert asking.type == CommitmentRequested.TYPE
        return events, asking

    def asked(self, asking: CloudEvent) -> Asked:
        """Ask, and return what the node was asked."""
        result = commit([asking], self.index)
        assert result.failures == ()
        return self.node.asked[-1]

    def reported(self) -> BatchResult:
        """Settle what the edge has published since the last time."""
        events, self.link.events = self.link.events, []
        assert {event.type for event in events} == {CommitmentReported.TYPE}
        return commit(events, self.index)

    def rows(self, events: Sequence[CloudEvent]) -> list[DeliveryRow]:
        """Return how the deliveries stand."""
        return [self.index.delivery(event.id) for event in events]

    def states(self, events: Sequence[CloudEvent]) -> list[DeliveryState]:
        """Return where the deliveries stand."""
        return [row.state for row in self.rows(events)]

    def looked_after(self) -> list[CloudEvent]:
        """Have the keeper look after what is due; return what it publishes."""
        publisher = MemoryLink()
        asyncio.run(Overdue(self.index, publisher).run())
        return publisher.events


@pytest.fixture
def world(index: Index, tmp_path: Path) -> Iterator[CommitmentWorld]:
    """A node that commits, and an edge that hears of it."""
    link = MemoryLink()
    senders = Senders(Secrets(tmp_path))
    with CommittingNode(tmp_path / "node") as node, stage(reports=reports_into(link)) as edge:
        made = CommitmentWorld(node, edge, link, index, senders, MemoryObjectStore())
        made.destination()
        yield made
        senders.close()


UNCOMMITTED, DELIVERED = DeliveryState.UNCOMMITTED, DeliveryState.DELIVERED
RETRYING, FAILED = DeliveryState.RETRYING, DeliveryState.FAILED


def test_delivered_is_shown_once_the_report_came_to_the_edge(world: CommitmentWorld) -> None:
    """Taken is not delivered: that is shown when the node, over an association of its own, commits."""
    events, asking = world.sent()
    assert world.states(events) == [UNCOMMITTED] * 3
    asked = world.asked(asking)
    assert sorted(asked.instances) == [uid_of(number) for number in (1, 2, 3)]
    assert world.states(events) == [UNCOMMITTED] * 3
    assert "an answer is due by" in world.rows(events)[0].commitment
    assert world.node.report(asked, world.edge.port) == 0x0000
    result = world.reported()
    assert {event.type for event in result.events} == {DeliveryCompleted.TYPE}
    assert sorted(event.id for event in result.events) == sorted(event.id for event in events)
    assert world.states(events) == [DELIVERED] * 3
    steps = {step.step: step for step in world.index.timeline(uid_of(1)) if step.destination}
    assert list(steps) == ["requested", "uncommitted", "delivered"]
    assert steps["delivered"].detail == "0x0000 the destination committed to keeping it"


def test_the_report_may_come_on_the_association_that_asked(world: CommitmentWorld) -> None:
    """A node that answers at once, on the same association, is heard, and answered."""
    world.destination(linger_seconds=30)
    world.node.manners.reports_at_once = True
    events, asking = world.sent()
    result = commit([asking], world.index)
    assert {event.type for event in result.events} == {DeliveryCompleted.TYPE}
    assert world.states(events) == [DELIVERED] * 3
    eventually(lambda: world.node.confirmed == [0x0000], "the report was answered")


def test_an_instance_it_does_not_commit_to_is_sent_again_alone(world: CommitmentWorld) -> None:
    """What the archive lost goes once more, and nothing else does; then it is committed to."""
    events, asking = world.sent()
    world.node.manners.lost.add(uid_of(2))
    assert world.node.report(world.asked(asking), world.edge.port) == 0x0000
    world.reported()
    assert world.states(events) == [DELIVERED, RETRYING, DELIVERED]
    assert world.rows(events)[1].reason == (
        "the destination did not commit to keeping it: 0x0112, no such object instance"
    )
    world.node.manners.lost.clear()
    (again,) = world.looked_after()
    assert (again.type, again.id) == (DeliveryRequested.TYPE, events[1].id)
    assert again.nats_msg_id != events[1].nats_msg_id
    assert world.looked_after() == []
    count = world.node.count
    (asking,) = world.forward([again]).events
    assert world.node.count == count + 1
    asked = world.asked(asking)
    assert asked.instances == [uid_of(2)]
    world.node.report(asked, world.edge.port)
    world.reported()
    assert world.states(events) == [DELIVERED] * 3


def test_an_instance_it_never_commits_to_becomes_a_dead_letter(world: CommitmentWorld) -> None:
    """Sending again has an end: the forwarder says why, which makes it a dead letter; redriving begins anew."""
    world.destination(sends=2)
    world.node.manners.lost.add(uid_of(1))
    events, asking = world.sent(1)
    world.node.report(world.asked(asking), world.edge.port)
    world.reported()
    (again,) = world.looked_after()
    (asking,) = world.forward([again]).events
    world.node.report(world.asked(asking), world.edge.port)
    (last,) = world.reported().events
    (row,) = world.rows(events)
    assert row.state is FAILED
    assert row.reason.endswith("0x0112, no such object instance; sent 2 times")
    result = world.forward([last])
    (failure,) = result.failures
    assert (failure.retryable, failure.reason) == (False, row.reason)
    assert [event.type for event in result.events] == [DeliveryFailed.TYPE]
    assert world.index.redriven([events[0].id]) == [events[0].id]
    world.node.manners.lost.clear()
    (asking,) = world.forward([events[0]]).events
    world.node.report(world.asked(asking), world.edge.port)
    world.reported()
    assert world.states(events) == [DELIVERED]


def overdue(world: CommitmentWorld) -> list[CloudEvent]:
    """Wait until something is due, and return what the keeper publishes about it."""
    published: list[CloudEvent] = []

    def something_was() -> bool:
        published.extend(world.looked_after())
        return bool(published)

    eventually(something_was, "something was due")
    return published


def test_a_node_that_never_answers_is_asked_again_and_then_given_up(world: CommitmentWorld) -> None:
    """Silence has an end too: so many transactions, then a dead letter that says how often it was asked."""
    world.destination(answer_within_seconds=0.05, asks=2)
    events, asking = world.sent(2)
    first = world.asked(asking)
    (asking,) = overdue(world)
    assert asking.type == CommitmentRequested.TYPE
    second = world.asked(asking)
    assert first.transaction_uid != second.transaction_uid
    assert sorted(second.instances) == sorted(first.instances)
    given_up = overdue(world)
    assert [event.type for event in given_up] == [DeliveryRequested.TYPE] * 2
    reason = world.rows(events)[0].reason
    assert "did not commit to keeping it within 0.05 s, asked 2 times" in reason
    result = world.forward(given_up)
    assert [(one.retryable, one.reason) for one in result.failures] == [(False, reason)] * 2
    assert world.node.count == 2


def test_what_is_late_twice_or_unknown_is_answered_and_changes_nothing(world: CommitmentWorld) -> None:
    """A report on a transaction that is over, was told before, or never was, gets its answer, and that is all."""
    world.destination(answer_within_seconds=0.05)
    events, asking = world.sent(1)
    first = world.asked(asking)
    (asking,) = overdue(world)
    before = world.rows(events)
    assert world.node.report(first, world.edge.port) == 0x0000
    assert world.reported() == BatchResult(failures=(), events=())
    assert world.rows(events) == before
    second = world.asked(asking)
    assert world.node.report(second, world.edge.port) == 0x0000
    world.reported()
    after = world.rows(events)
    assert after[0].state is DELIVERED
    world.node.manners.lost.add(uid_of(1))
    for told in (world.node.told(second), report_of("1.2.3", [uid_of(1)])):
        assert send_report(told, world.edge.port) == 0x0000
    world.reported()
    assert world.rows(events) == after


@pytest.mark.parametrize(
    ("changes", "titles", "why"),
    [
        ({}, {"calling_aet": "OTHER"}, "it came from the AE title 'OTHER', not from 'DEMO'"),
        ({"report_from": ["10.0.0.0/8"]}, {}, "it came from 127.0.0.1, which is not in the destination's report_from"),
    ],
)
def test_only_the_destination_itself_is_believed(
    world: CommitmentWorld, changes: dict[str, Any], titles: dict[str, str], why: str
) -> None:
    """Somebody else who learns a transaction's UID cannot make anything delivered, and people are told of it."""
    world.destination(**changes)
    events, asking = world.sent(1)
    asked = world.asked(asking)
    assert world.node.report(asked, world.edge.port, **titles) == 0x0000
    assert world.reported().events == ()
    (row,) = world.rows(events)
    assert (row.state, row.commitment) == (UNCOMMITTED, f"a report was not believed: {why}")
    world.destination(report_from=["127.0.0.0/8"])
    world.node.report(asked, world.edge.port)
    if not world.link.events:  # said by the same node, it is the same event
        world.link.__init__()  # type: ignore[misc]
        world.node.report(asked, world.edge.port)
    world.reported()
    assert world.states(events) == [DELIVERED]


def test_a_report_that_cannot_be_passed_on_is_not_confirmed(world: CommitmentWorld) -> None:
    """While the broker is away the node hears a failure, so that it reports again."""
    events, asking = world.sent(1)
    asked = world.asked(asking)
    world.link.available = False
    assert world.node.report(asked, world.edge.port) == 0x0110
    world.link.available = True
    assert world.node.report(asked, world.edge.port) == 0x0000
    world.reported()
    assert world.states(events) == [DELIVERED]


def test_a_report_that_is_none_is_refused_by_its_status(world: CommitmentWorld) -> None:
    """Nonsense is answered with what is wrong with it, and published nowhere."""
    told = report_of("1.2.3", ["1.2.3.4"])
    assert send_report(told, world.edge.port, kind=7) == 0x0113
    nameless = Dataset()
    nameless.ReferencedSOPSequence = told.ReferencedSOPSequence
    assert send_report(nameless, world.edge.port, kind=1) == 0x0115
    large = report_of("1.2.3", [f"1.2.3.{number}" for number in range(12_000)])
    assert send_report(large, world.edge.port) == 0x0213
    assert world.link.events == []


def test_a_node_without_the_service_ends_as_a_dead_letter_that_says_so(world: CommitmentWorld, tmp_path: Path) -> None:
    """A destination that was configured wrongly is noticed: the reason is on every delivery, and in the end of it."""
    with CommittingNode(tmp_path / "plain", commits=False) as world.node:
        world.destination(answer_within_seconds=0.05, asks=1)
        events, asking = world.sent(1)
        assert commit([asking], world.index).failures == ()
        lacks = "the destination does not accept the Storage Commitment Push Model"
        assert world.rows(events)[0].commitment == lacks
        overdue(world)
        (row,) = world.rows(events)
        assert row.state is FAILED
        assert row.reason.endswith(f"within 0.05 s, asked once ({lacks})")


def test_a_node_that_refuses_to_be_asked_says_why(world: CommitmentWorld) -> None:
    """The status of a refused N-ACTION is what people read while it is waited for."""
    world.node.manners.answer = 0x0211
    events, asking = world.sent(1)
    assert commit([asking], world.index).failures == ()
    said = "the destination answered 0x0211, unrecognised operation, when asked for its commitment"
    assert world.rows(events)[0].commitment == said


@pytest.mark.parametrize("trouble", ["away", "busy"])
def test_a_node_that_cannot_be_asked_now_is_asked_later(world: CommitmentWorld, trouble: str) -> None:
    """A node that is away or busy burns no ask: the request waits for it, as deliveries do."""
    events, asking = world.sent(1)
    if trouble == "away":
        world.node.__exit__()
    else:
        world.node.manners.answer = 0x0213
    (failure,) = commit([asking], world.index).failures
    assert (failure.retryable, failure.attempted) == (True, False)
    (row,) = world.rows(events)
    assert (row.state, row.commitment_asks, row.commitment_asked_at) == (UNCOMMITTED, 0, None)


def test_asking_twice_is_asking_once(world: CommitmentWorld) -> None:
    """The request may come twice, after a crash of whoever made it or carried it: the node is asked once."""
    events, asking = world.sent(2)
    (again,) = world.forward(events).events
    assert (again.id, again.nats_msg_id) == (asking.id, asking.nats_msg_id)
    world.asked(asking)
    assert commit([asking, again], world.index) == BatchResult(failures=(), events=())
    assert len(world.node.asked) == 1
    world.node.report(world.node.asked[0], world.edge.port)
    completed = world.reported().events
    # Should the function die before it has told, the same request makes it tell.
    assert [one.nats_msg_id for one in commit([asking], world.index).events] == [one.nats_msg_id for one in completed]


def test_a_destination_that_need_not_commit_any_more_is_believed(world: CommitmentWorld) -> None:
    """When the commitment is taken out of the routing, what was taken counts as delivered, and waits for nothing."""
    events, asking = world.sent(1)
    save_destination(world.index, model(name="pacs", type="dimse", aet="DEMO", host="127.0.0.1", port=world.node.port))
    assert [event.type for event in commit([asking], world.index).events] == [DeliveryCompleted.TYPE]
    assert world.states(events) == [DELIVERED]
    assert world.node.asked == []


def test_a_request_to_ask_that_was_lost_is_made_again_but_not_for_ever(world: CommitmentWorld) -> None:
    """What was never asked for is no silence of the node: it is tried for as long as a delivery may wait."""
    events, asking = world.sent(1)
    assert world.looked_after() == []
    world.index.put_off(world.rows(events), utc_now())
    (again,) = world.looked_after()
    assert (again.id, again.nats_msg_id != asking.nats_msg_id) == (asking.id, True)
    assert world.looked_after() == []
    world.destination()
    short = world.index.routing().document.destinations[0].model_copy(update={"give_up_after_hours": 1e-9})
    save_destination(world.index, short)
    world.index.put_off(world.rows(events), utc_now())
    (request_,) = world.looked_after()
    (row,) = world.rows(events)
    assert (request_.type, row.state) == (DeliveryRequested.TYPE, FAILED)
    assert "could not be asked for within" in row.reason


def test_what_is_to_be_sent_again_later_is_not_lost(world: CommitmentWorld) -> None:
    """Until its time has come nobody works on it, and reconciling must not take that for a loss."""
    world.destination(resend_after_seconds=3600)
    world.node.manners.lost.add(uid_of(1))
    events, asking = world.sent(1)
    world.node.report(world.asked(asking), world.edge.port)
    world.reported()
    assert world.states(events) == [RETRYING]
    assert world.index.unsettled_deliveries(utc_now() + timedelta(minutes=1)) == []
    assert world.looked_after() == []
