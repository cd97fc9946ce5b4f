"""What every kind of destination must do, through the function that forwards: the same suite for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from bucky.cloudevents import CloudEvent
from bucky.dimse.outgoing import Outcome, Outgoing
from bucky.errors import IndexUnavailable, StoreUnavailable
from bucky.events import CommitmentRequested, DeliveryCompleted, DeliveryRequested
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryState, Index, IndexedInstance
from bucky.serve.contract import BatchResult
from bucky.store.objects import MemoryObjectStore
from tests.support.destinations.destination_worlds import WORLDS, DestinationWorld
from tests.support.functions import forwarding
from tests.support.functions.commitment_world import commit
from tests.support.functions.forwarding import CT, EXPLICIT, CrashingIndex, request, save_destination, state, uid_of

COUNT = 5


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> Iterator[DestinationWorld]:
    """A real destination of each kind in turn."""
    with WORLDS[request.param](request) as running:
        yield running


@pytest.fixture
def senders(tmp_path: Path) -> Iterator[Senders]:
    """The open senders of a process."""
    opened = Senders(Secrets(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def index(index_url: str, world: DestinationWorld) -> Iterator[Index]:
    """An index whose routing has the destination."""
    opened = Index.open(index_url)
    opened.migrate()
    save_destination(opened, world.destination)
    yield opened
    opened.close()


@pytest.fixture
def objects() -> MemoryObjectStore:
    """An empty object store."""
    return MemoryObjectStore()


def requests(objects: MemoryObjectStore, count: int = COUNT) -> list[CloudEvent]:
    """Return requests to deliver so many instances there, of very different sizes."""
    return [request(objects, number, size=4 * 11**number, destination="there") for number in range(1, count + 1)]


def forward(
    events: list[CloudEvent], objects: MemoryObjectStore, index: Index | CrashingIndex, senders: Senders
) -> BatchResult:
    """Run the function on a batch, and then the one that asks a destination to commit, where one is to."""
    result = forwarding.forward(events, objects, index, senders)
    asking = [event for event in result.events if event.type == CommitmentRequested.TYPE]
    if not asking or not isinstance(index, Index):
        return result
    instances = [DeliveryRequested.model_validate(event.data).instance for event in events]
    index.upsert_instances([IndexedInstance(one, {}) for one in instances])
    told = commit(asking, index)
    others = tuple(event for event in result.events if event not in asking)
    return BatchResult(failures=result.failures + told.failures, events=others + told.events)


def digests(events: list[CloudEvent]) -> list[str]:
    """Return the digests of the instances."""
    return sorted(event.data["instance"]["sha256"] for event in events)


def test_every_instance_arrives_whole_and_is_recorded(
    world: DestinationWorld, senders: Senders, index: Index, objects: MemoryObjectStore
) -> None:
    """A destination holds the very bytes that were received, and the index says what it answered."""
    events = requests(objects)
    result = forward(events, objects, index, senders)
    assert result.failures == ()
    assert world.held() == digests(events)
    assert {event.type for event in result.events} == {DeliveryCompleted.TYPE}
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}
    assert all(index.delivery(event.id).detail for event in events)


def test_what_it_does_not_take_now_is_tried_again_alone(
    world: DestinationWorld, senders: Senders, index: Index, objects: MemoryObjectStore
) -> None:
    """One instance in trouble delays no other, and when the trouble is over it alone is sent."""
    events = requests(objects)
    world.hinder(uid_of(3))
    (failure,) = forward(events, objects, index, senders).failures
    assert (failure.item_identifier, failure.retryable) == (events[2].id, True)
    assert failure.reason
    assert world.held() == digests(events[:2] + events[3:])
    world.help()
    assert forward([events[2]], objects, index, senders).failures == ()
    assert world.held() == digests(events)
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}


def test_a_refusal_is_final_for_that_instance_alone(
    world: DestinationWorld, senders: Senders, index: Index, objects: MemoryObjectStore
) -> None:
    """An instance that will never be taken fails for good, with a reason; the others arrive."""
    events = requests(objects)
    world.refuse(uid_of(2))
    (failure,) = forward(events, objects, index, senders).failures
    assert (failure.item_identifier, failure.retryable) == (events[1].id, False)
    assert index.delivery(events[1].id).reason == failure.reason != ""
    assert state(index, events[1]) is DeliveryState.FAILED
    assert world.held() == digests(events[:1] + events[2:])


def test_while_it_is_away_everything_waits(
    world: DestinationWorld, senders: Senders, index: Index, objects: MemoryObjectStore
) -> None:
    """A destination that is away loses nothing, and gets all of it when it is back."""
    events = requests(objects)
    world.leave()
    result = forward(events, objects, index, senders)
    assert [failure.retryable for failure in result.failures] == [True] * COUNT
    assert {state(index, event) for event in events} == {DeliveryState.RETRYING}
    world.come_back()
    assert forward(events, objects, index, senders).failures == ()
    assert world.held() == digests(events)


def test_a_crash_before_the_record_resends_at_most_the_batch(
    world: DestinationWorld, senders: Senders, index: Index, objects: MemoryObjectStore
) -> None:
    """After a crash between sending and recording the batch goes once more, and changes nothing there."""
    events = requests(objects)
    with pytest.raises(IndexUnavailable):
        forward(events, objects, CrashingIndex(index), senders)
    assert {state(index, event) for event in events} == {DeliveryState.REQUESTED}
    assert forward(events, objects, index, senders).failures == ()
    assert world.held() == digests(events)
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}


def unopened(number: int) -> Outgoing:
    """Return an instance whose content must not be opened."""

    def opened() -> BinaryIO:
        raise AssertionError("the content was opened")

    return Outgoing(CT, uid_of(number), EXPLICIT, opened, {}, "1.2", "1.2.3")


class AwayStore(MemoryObjectStore):
    """A store that does not answer for one key."""

    away = ""

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return the object, unless it is the one."""
        if key == self.away:
            raise StoreUnavailable("the object store cannot be reached")
        return super().get(key, offset, length)


def test_an_object_that_cannot_be_had_delays_itself_alone(
    world: DestinationWorld, senders: Senders, index: Index
) -> None:
    """Trouble at our end with one instance is not the destination's, and keeps no other instance from it."""
    store = AwayStore()
    events = requests(store)
    store.away = events[1].data["instance"]["key"]
    (failure,) = forward(events, store, index, senders).failures
    assert (failure.item_identifier, failure.retryable) == (events[1].id, True)
    assert world.held() == digests(events[:1] + events[2:])


def test_what_cannot_be_reached_opens_nothing(world: DestinationWorld, senders: Senders) -> None:
    """An instance counts as begun when its content is opened: knocking at a closed door is no attempt at it."""
    world.leave()
    (result,) = senders.send(world.destination, [unopened(1)], seconds=60)
    world.come_back()
    assert result.outcome is Outcome.UNAVAILABLE


def test_what_has_no_time_left_is_not_begun(world: DestinationWorld, senders: Senders) -> None:
    """A batch has an end: what was not begun by then is left for another time, and not sent half."""
    items = [unopened(number) for number in range(3)]
    results = senders.send(world.destination, items, seconds=-1)
    assert [result.outcome for result in results] == [Outcome.UNAVAILABLE] * 3
    assert world.held() == []
