"""The API's connection to NATS: it may come later than the API, and go and return."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from bucky.broker.connection import connect, disconnect, jetstream
from bucky.broker.streams import STREAMS
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings

RETRY_SECONDS = 1.0


class BrokerConnection:
    """A connection that is made in the background and kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect in the background while the block runs; close at its end."""
        connecting = asyncio.create_task(self._connect())
        try:
            yield
        finally:
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await connecting
            if self._client is not None:
                await disconnect(self._client)

    def client(self) -> Client:
        """Return the connection, or raise `BrokerUnavailable` while there is none."""
        if self._client is None or not self._client.is_connected:
            raise BrokerUnavailable("NATS is not connected; dead letters are safe there, try again shortly.")
        return self._client

    def jetstream(self) -> JetStreamContext:
        """Return JetStream, or raise `BrokerUnavailable` while there is no connection."""
        return jetstream(self.client())

    async def check(self) -> dict[str, Any]:
        """Raise unless JetStream answers and has Bucky's streams; return how many messages they hold."""
        try:
            js = self.jetstream()
            states = [(await js.stream_info(str(stream.name))).state for stream in STREAMS]
        except (NatsError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(f"JetStream did not answer: {type(error).__name__}.") from error
        return {str(stream.name): state.messages for stream, state in zip(STREAMS, states, strict=True)}

    async def _connect(self) -> None:
        while True:
            with suppress(BrokerUnavailable):
                client = self._client = await connect(self._settings, "admin-api")
                await client.ended.wait()
            await asyncio.sleep(RETRY_SECONDS)
