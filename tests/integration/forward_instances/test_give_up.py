"""No delivery waits for ever: after its destination's limit it is a dead letter, and can be sent again."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from bucky.broker.connection import MemoryPublisher
from bucky.broker.streams import DAY, STREAMS
from bucky.cloudevents import utc_now
from bucky.events import DeliveryFailed, payload_of
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryState, Index
from bucky.runtime.ports import free_port
from bucky.store.objects import MemoryObjectStore
from keeper.overdue import Overdue
from keeper.steady_clock import SteadyClock
from tests.support.destinations.destination_worlds import model
from tests.support.functions.forwarding import forward, request, save_destination, state
from tests.support.waiting import eventually

pytestmark = pytest.mark.index

AWAY = {"type": "dimse", "aet": "DEMO", "host": "127.0.0.1"}
SENDERS = Senders(Secrets(Path("/nonexistent")))
SHORT_HOURS = 0.2 / 3600


class Keeper:
    """The keeper, with clocks that the test may set."""

    def __init__(self, index: Index) -> None:
        self.set_ahead = timedelta()
        self.later = 0.0
        clock = SteadyClock(
            lambda: utc_now() + self.set_ahead + timedelta(seconds=self.later), lambda: time.monotonic() + self.later
        )
        self._overdue = Overdue(index, MemoryPublisher(), clock)

    def given_up(self) -> int:
        """Look for what waits too long."""
        return asyncio.run(self._overdue.give_up())

    def time_passes(self, seconds: float) -> None:
        """Let time pass for the keeper, in the steps in which it looks."""
        self.later += seconds


def test_what_waits_for_a_destination_that_stays_away_is_given_up_with_the_reason(index: Index) -> None:
    """The limit is the destination's, counts from the request or the redrive, and the last trouble is named."""
    objects, port = MemoryObjectStore(), free_port()
    save_destination(index, model(name="pacs", port=port, give_up_after_hours=SHORT_HOURS, **AWAY))
    events = [request(objects, number) for number in (1, 2)]
    assert all(failure.retryable for failure in forward(events, objects, index, SENDERS).failures)
    keeper = Keeper(index)
    keeper.time_passes(1)
    assert keeper.given_up() == 0
    forward(events, objects, index, SENDERS)
    eventually(lambda: keeper.given_up() == 2, "both were given up")
    row = index.delivery(events[0].id)
    assert row.state is DeliveryState.FAILED
    assert row.reason.startswith("given up after 0.2 s, waiting since ")
    assert f"DEMO@127.0.0.1:{port} cannot be reached" in row.reason
    result = forward(events, objects, index, SENDERS)
    assert {(one.retryable, one.reason) for one in result.failures} == {(False, row.reason)}
    assert {event.type for event in result.events} == {DeliveryFailed.TYPE}
    assert index.dead_letter(events[0].id, row.reason, attempts=1)
    save_destination(index, model(name="pacs", port=port, **AWAY))
    assert index.redriven([events[0].id]) == [events[0].id]
    assert keeper.given_up() == 0
    assert state(index, events[0]) is DeliveryState.REQUESTED


def test_one_destination_s_limit_is_not_another_s(index: Index) -> None:
    """What waits for a destination with a longer limit, or for one that is not there any more, goes on waiting."""
    objects = MemoryObjectStore()
    save_destination(index, model(name="pacs", port=1, **AWAY))
    events = [request(objects, 1), request(objects, 2, destination="gone")]
    index.request_deliveries([payload_of(event) for event in events])  # type: ignore[misc]
    assert Keeper(index).given_up() == 0
    assert {state(index, event) for event in events} == {DeliveryState.REQUESTED}


def test_a_clock_that_is_set_gives_nothing_up(index: Index) -> None:
    """A year that did not pass is no wait, whether the keeper sees the jump or starts after it."""
    objects = MemoryObjectStore()
    save_destination(index, model(name="pacs", port=free_port(), **AWAY))
    events = [request(objects, 1)]
    forward(events, objects, index, SENDERS)
    seeing = Keeper(index)
    assert seeing.given_up() == 0
    seeing.set_ahead = timedelta(days=365)
    started_after = Keeper(index)
    started_after.set_ahead = timedelta(days=365)
    for keeper in (seeing, started_after):
        for _ in range(3):
            assert keeper.given_up() == 0
            forward(events, objects, index, SENDERS)
    assert state(index, events[0]) is DeliveryState.RETRYING


def test_what_was_never_tried_is_not_given_up(index: Index) -> None:
    """After a week in which nothing ran, the destination is asked before anything is given up."""
    objects = MemoryObjectStore()
    save_destination(index, model(name="pacs", port=free_port(), give_up_after_hours=SHORT_HOURS, **AWAY))
    events = [request(objects, 1)]
    index.request_deliveries([payload_of(event) for event in events])  # type: ignore[misc]
    keeper = Keeper(index)
    for _ in range(3):
        keeper.time_passes(30)
        assert keeper.given_up() == 0
    forward(events, objects, index, SENDERS)
    assert keeper.given_up() == 1


def test_no_destination_may_wait_longer_than_the_stream_keeps_its_deliveries() -> None:
    """The stream drops what is too old without a word, so every limit is below its own."""
    (stream,) = [one for one in STREAMS if one.name == "DELIVERIES"]
    assert stream.max_age is not None
    longest = (stream.max_age - DAY) / 3600
    assert model(name="pacs", port=1, give_up_after_hours=longest, **AWAY).give_up_after_hours == longest
    with pytest.raises(ValidationError):
        model(name="pacs", port=1, give_up_after_hours=longest + 1, **AWAY)
