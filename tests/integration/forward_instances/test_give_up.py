"""No delivery waits for ever: after its destination's limit it is a dead letter, and can be sent again."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from bucky.broker import MemoryPublisher
from bucky.events import DeliveryFailed
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryState, Index
from bucky.objects import MemoryObjectStore
from bucky.ports import free_port
from bucky.streams import DAY, STREAMS
from keeper.overdue import Overdue
from tests.support.destinations.destination_worlds import model
from tests.support.functions.forwarding import forward, request, save_destination, state
from tests.support.waiting import eventually

pytestmark = pytest.mark.index

AWAY = {"type": "dimse", "aet": "DEMO", "host": "127.0.0.1"}
SENDERS = Senders(Secrets(Path("/nonexistent")))
SHORT_HOURS = 0.2 / 3600


def given_up(index: Index) -> int:
    """Have the keeper look for what waits too long."""
    return asyncio.run(Overdue(index, MemoryPublisher()).give_up())


def test_what_waits_for_a_destination_that_stays_away_is_given_up_with_the_reason(index: Index) -> None:
    """The limit is the destination's, counts from the request or the redrive, and the last trouble is named."""
    objects, port = MemoryObjectStore(), free_port()
    save_destination(index, model(name="pacs", port=port, give_up_after_hours=SHORT_HOURS, **AWAY))
    events = [request(objects, number) for number in (1, 2)]
    assert all(failure.retryable for failure in forward(events, objects, index, SENDERS).failures)
    eventually(lambda: given_up(index) == 2, "both were given up")
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
    assert given_up(index) == 0
    assert state(index, events[0]) is DeliveryState.REQUESTED


def test_one_destination_s_limit_is_not_another_s(index: Index) -> None:
    """What waits for a destination with a longer limit, or for one that is not there any more, goes on waiting."""
    objects = MemoryObjectStore()
    save_destination(index, model(name="pacs", port=1, **AWAY))
    events = [request(objects, 1), request(objects, 2, destination="gone")]
    index.request_deliveries([event.payload() for event in events])  # type: ignore[misc]
    assert given_up(index) == 0
    assert {state(index, event) for event in events} == {DeliveryState.REQUESTED}


def test_no_destination_may_wait_longer_than_the_stream_keeps_its_deliveries() -> None:
    """The stream drops what is too old without a word, so every limit is below its own."""
    (stream,) = [one for one in STREAMS if one.name == "DELIVERIES"]
    assert stream.max_age is not None
    longest = (stream.max_age - DAY) / 3600
    assert model(name="pacs", port=1, give_up_after_hours=longest, **AWAY).give_up_after_hours == longest
    with pytest.raises(ValidationError):
        model(name="pacs", port=1, give_up_after_hours=longest + 1, **AWAY)
