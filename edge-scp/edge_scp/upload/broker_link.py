"""The edge's line to NATS JetStream, opened when it can be: the edge starts and receives without it."""

import asyncio

from nats.aio.client import Client
from nats.errors import Error as NatsError

from bucky.broker.batch_publisher import BatchPublisher
from bucky.broker.connection import connect, disconnect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings


class UploadPublisher:
    """A publisher that connects at its first `prepare`; every failure is `BrokerUnavailable`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._publisher: BatchPublisher | None = None
        self._connecting = asyncio.Lock()

    async def prepare(self) -> None:
        """Connect unless connected, and make sure the streams are there."""
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = await connect(self._settings, "edge")
                self._publisher = BatchPublisher(self._client)
        try:
            await ensure_streams(jetstream(self._client), self._settings.nats_replicas)
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"the streams cannot be ensured: {type(error).__name__}") from error

    async def publish(self, event: CloudEvent) -> None:
        """Return once the stream has the event."""
        if self._publisher is None:
            raise BrokerUnavailable("not connected to NATS yet")
        await self._publisher.publish(event)

    async def check(self) -> None:
        """Raise unless the connection is up."""
        if self._client is None or not self._client.is_connected:
            raise BrokerUnavailable("not connected to NATS")

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await disconnect(self._client)
