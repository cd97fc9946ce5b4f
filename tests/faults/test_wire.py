"""The wire with a trip in it sees what the kills at every step are to see."""

import asyncio
from urllib.parse import urlsplit

import pytest

from bucky.broker.batch_publisher import LEAST_EVENTS, BatchPublisher
from bucky.broker.connection import connect, disconnect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.settings import Settings
from tests.support.faults.wire import ANSWERED, NatsWire, TripWire

KIND = "publish dicom.instance.stored"


@pytest.mark.parametrize("count", [1, LEAST_EVENTS + 1], ids=["alone", "in a batch"])
async def test_the_answer_to_a_message_trips_the_wire(nats_settings: Settings, count: int) -> None:
    """Whether the broker acknowledged it alone, or the last of its batch for all of them."""
    trip, tripped = TripWire(), list[str]()
    port = urlsplit(nats_settings.nats_url).port
    assert port is not None
    wire = NatsWire(port, trip)
    client = await connect(nats_settings.model_copy(update={"nats_url": wire.url}), "test")
    await ensure_streams(jetstream(client))
    publisher = BatchPublisher(client)
    await publisher.publish(_event("before"))  # so that the stream is known, and the others go together
    trip.arm(KIND + ANSWERED, (b"number 0",), lambda: tripped.append("here"))
    waiting = [asyncio.create_task(publisher.publish(_event(f"number {number}"))) for number in range(count)]
    assert await asyncio.to_thread(trip.fired.wait, 10)
    assert tripped == ["here"]
    # The connection is cut, and what was not answered is published once more.
    await asyncio.gather(*waiting, return_exceptions=True)
    await disconnect(client)
    wire.close()


def _event(text: str) -> CloudEvent:
    return CloudEvent(id=text.replace(" ", "-"), source="/test", type="dicom.instance.stored", data={"text": text})
