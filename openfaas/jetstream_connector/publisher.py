"""The way out to JetStream that all consumers share."""

import asyncio
from collections.abc import Callable, Sequence

from nats.aio.client import Client

from bucky.broker.connection import Publisher
from bucky.cloudevents import CloudEvent
from jetstream_connector.attempts import AttemptStore

PUBLISHES_AT_ONCE = 500
FLUSH_SECONDS = 5


class EventPublisher:
    """Publishes events, flushes acknowledgements, and holds the records of attempts."""

    def __init__(
        self,
        client: Client,
        publisher: Publisher,
        attempts: AttemptStore,
        published: Callable[[str], None],
    ) -> None:
        self.client = client
        self.attempts = attempts
        self._publisher = publisher
        self._published = published
        self.refused: str | None = None

    @property
    def max_event_bytes(self) -> int:
        """The largest event the broker takes, less its headers."""
        return self.client.max_payload - 4096

    async def publish(self, events: Sequence[CloudEvent]) -> None:
        """Publish events and wait for every PubAck; raise `BrokerUnavailable` when one is missing."""
        for start in range(0, len(events), PUBLISHES_AT_ONCE):
            chunk = events[start : start + PUBLISHES_AT_ONCE]
            outcomes = await asyncio.gather(
                *(self._publisher.publish(event) for event in chunk), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    self.refused = str(outcome)
                    raise outcome
        if events:
            self.refused = None
        for subject in {event.nats_subject for event in events}:
            self._published(subject)

    async def flush(self) -> None:
        """Wait until the broker has read what was sent; an acknowledgement lost here means a redelivery."""
        await self.client.flush(FLUSH_SECONDS)
