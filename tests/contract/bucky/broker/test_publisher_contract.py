"""What every publisher must do: single publishes, atomic batches and the in-memory fake pass the same suite."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
from nats.aio.client import Client

from bucky.broker import batch_publisher
from bucky.broker import connection as broker_module
from bucky.broker.batch_publisher import MOST_EVENTS, BatchPublisher
from bucky.broker.connection import JetStreamPublisher, MemoryPublisher, Publisher, connect, disconnect, jetstream
from bucky.broker.streams import STREAMS, ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings
from tests.support.servers import Running

IMPLEMENTATIONS: dict[str, Callable[[Client], Publisher]] = {
    "single": lambda client: JetStreamPublisher(jetstream(client)),
    "batch": BatchPublisher,
}


@dataclass
class Line:
    """A publisher, how to make it unavailable, and the ids its stream has, in order."""

    publisher: Publisher
    cut: Callable[[], object]
    ids: Callable[[], Awaitable[list[str]]]


@dataclass
class Broker:
    """A client of a fresh nats-server with Bucky's streams."""

    server: Running
    client: Client

    async def ids(self, stream: str = "INSTANCES") -> list[str]:
        """Return the ids of the events in a stream, in order."""
        return [event.id for event in await self.events(stream)]

    async def events(self, stream: str = "INSTANCES") -> list[CloudEvent]:
        """Return the events in a stream, in order."""
        js = jetstream(self.client)
        count = (await js.stream_info(stream)).state.messages
        messages = [await js.get_msg(stream, number + 1) for number in range(count)]
        return [CloudEvent.model_validate_json(message.data or b"") for message in messages]


@pytest.fixture
async def broker(nats_server: tuple[Running, Settings]) -> AsyncIterator[Broker]:
    """A real nats-server."""
    server, settings = nats_server
    client = await connect(settings, "test")
    await ensure_streams(jetstream(client))
    yield Broker(server, client)
    await disconnect(client)


@pytest.fixture(params=["memory", *IMPLEMENTATIONS])
def line(request: pytest.FixtureRequest) -> Line:
    """Each implementation in turn."""
    if request.param == "memory":
        fake = MemoryPublisher()

        async def ids() -> list[str]:
            return [event.id for event in fake.events]

        return Line(fake, lambda: setattr(fake, "available", False), ids)
    broker: Broker = request.getfixturevalue("broker")
    return Line(IMPLEMENTATIONS[request.param](broker.client), broker.server.kill, broker.ids)


@pytest.fixture
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up in the time a test has."""
    for module in (batch_publisher, broker_module):
        monkeypatch.setattr(module, "PUBLISH_TIMEOUT_SECONDS", 0.5)


def event(number: int, kind: str = "dicom.instance.stored", size: int = 10) -> CloudEvent:
    """Return one event among many."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return CloudEvent(id=digest, source="/test", type=kind, data={"text": "x" * size})


async def publish_all(publisher: Publisher, events: list[CloudEvent]) -> list[BaseException | None]:
    """Publish at the same time; return what came of each."""
    return list(await asyncio.gather(*(publisher.publish(one) for one in events), return_exceptions=True))


async def test_what_is_acknowledged_is_in_the_stream(line: Line) -> None:
    """One alone, and many at once, are all there when `publish` returns."""
    await line.publisher.publish(event(0))
    assert await line.ids() == [event(0).id]
    events = [event(number) for number in range(1, 41)]
    assert await publish_all(line.publisher, events) == [None] * 40
    assert await line.ids() == [event(0).id, *(one.id for one in events)]


async def test_the_same_event_is_one_message(line: Line) -> None:
    """Publishing again changes nothing, be it alone, among others, or twice at once."""
    events = [event(number) for number in range(20)]
    assert await publish_all(line.publisher, events) == [None] * 20
    more = [event(number) for number in range(15, 40)] + [event(39)]
    assert await publish_all(line.publisher, more) == [None] * 26
    await line.publisher.publish(event(7))
    assert sorted(await line.ids()) == sorted(event(number).id for number in range(40))


@pytest.mark.usefixtures("_short_timeout")
async def test_no_broker_is_retriable(line: Line) -> None:
    """Without a broker nothing counts as published."""
    await line.publisher.publish(event(0))
    line.cut()
    with pytest.raises(BrokerUnavailable):
        await line.publisher.publish(event(1))
    outcomes = await publish_all(line.publisher, [event(number) for number in range(2, 14)])
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailable}


async def test_a_batch_is_one_message_per_event_in_every_stream(broker: Broker) -> None:
    """Events for several streams, given at once, each end whole in their own; batches really are used."""
    publisher = BatchPublisher(broker.client)
    instances = [event(number, size=1000) for number in range(MOST_EVENTS + 100)]
    requests = [
        event(number, "dicom.delivery.requested").model_copy(update={"partitionkey": f"pacs-{number % 3}"})
        for number in range(30)
    ]
    # Once for each subject, so that their streams are known.
    await publish_all(publisher, [instances[0], *requests[:3]])
    before = broker.client.stats["in_msgs"]
    assert await publish_all(publisher, instances[1:] + requests[3:]) == [None] * (MOST_EVENTS + 126)
    # One acknowledgement for each of three batches.
    assert broker.client.stats["in_msgs"] - before == 3
    assert await broker.events("INSTANCES") == instances
    assert await broker.events("DELIVERIES") == requests


async def test_one_that_cannot_be_published_fails_alone(broker: Broker) -> None:
    """An event larger than the broker takes harms none of those it would have travelled with."""
    publisher = BatchPublisher(broker.client)
    events = [event(number, size=2_000_000 if number == 5 else 10) for number in range(20)]
    outcomes = await publish_all(publisher, events)
    assert [type(outcome) for outcome in outcomes] == [
        BrokerUnavailable if number == 5 else type(None) for number in range(20)
    ]
    assert sorted(await broker.ids()) == sorted(one.id for one in events if one is not events[5])


async def test_a_subject_without_a_stream_is_retriable(broker: Broker) -> None:
    """An event nobody keeps is not published, and the others are."""
    publisher = BatchPublisher(broker.client)
    lost = event(99, "nobody.keeps.this")
    outcomes = await publish_all(publisher, [lost, *(event(number) for number in range(10))])
    assert isinstance(outcomes[0], BrokerUnavailable)
    assert outcomes[1:] == [None] * 10


async def test_a_stream_that_takes_no_batches_gets_single_messages(broker: Broker) -> None:
    """Where atomic batches are off, or the stream was moved, every event still arrives once."""
    js = jetstream(broker.client)
    publisher = BatchPublisher(broker.client)
    await publish_all(publisher, [event(number) for number in range(10)])
    await js.delete_stream("INSTANCES")
    (stream,) = (one for one in STREAMS if one.name == "INSTANCES")
    await js.add_stream(replace(stream, name="ELSEWHERE", allow_atomic=False))
    events = [event(number) for number in range(100, 120)]
    for _ in range(2):
        assert await publish_all(publisher, events) == [None] * 20
    assert sorted(await broker.ids("ELSEWHERE")) == sorted(one.id for one in events)


async def test_a_caller_that_gives_up_takes_nobody_along(broker: Broker) -> None:
    """Cancelling one publish leaves the group it was in alone."""
    publisher = BatchPublisher(broker.client)
    tasks = [asyncio.create_task(publisher.publish(event(number))) for number in range(20)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert outcomes[1:] == [None] * 19
