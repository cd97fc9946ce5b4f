"""The broker: one seam to NATS JetStream, and the in-memory fake that ships with it.

How a connection survives whatever happens to it is in `bucky.broker.client`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Coroutine
from typing import Any, Protocol

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext

from bucky.broker.client import LastingClient
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.settings import Settings

PUBLISH_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 5.0
# A broker that syncs each write can be busy for seconds when its machine is.
REQUEST_TIMEOUT_SECONDS = 30.0


def jetstream(client: Client) -> JetStreamContext:
    """Return JetStream over a connection, patient with a busy broker."""
    return client.jetstream(timeout=REQUEST_TIMEOUT_SECONDS)


class Publisher(Protocol):
    """Publishes events durably."""

    async def publish(self, event: CloudEvent) -> None:
        """Return once the stream has the event; raise `BrokerUnavailable` otherwise."""


class JetStreamPublisher:
    """Publishes to JetStream and waits for each PubAck."""

    def __init__(self, js: JetStreamContext) -> None:
        self._js = js

    async def publish(self, event: CloudEvent, attempt: str = "") -> None:
        """Publish on the event's subject under its deterministic `Nats-Msg-Id`; `attempt` tells a repetition apart."""
        try:
            await self._js.publish(
                event.nats_subject,
                event.to_json(),
                timeout=PUBLISH_TIMEOUT_SECONDS,
                headers={"Nats-Msg-Id": f"{event.nats_msg_id}/{attempt}" if attempt else event.nats_msg_id},
            )
        except (NatsError, NatsTimeout, OSError) as error:
            raise BrokerUnavailable(f"JetStream did not acknowledge: {type(error).__name__}") from error


class MemoryPublisher:
    """The shipped fake: a list without duplicates, which can be told to be unavailable."""

    def __init__(self) -> None:
        self.events: list[CloudEvent] = []
        self.available = True
        self._seen: set[str] = set()

    async def publish(self, event: CloudEvent) -> None:
        """Keep the event unless its `Nats-Msg-Id` was seen."""
        if not self.available:
            raise BrokerUnavailable("the broker was told to be unavailable")
        if event.nats_msg_id not in self._seen:
            self._seen.add(event.nats_msg_id)
            self.events.append(event)


async def connect(settings: Settings, name: str) -> LastingClient:
    """Connect to NATS, or raise `BrokerUnavailable` within seconds; then reconnect for ever, log each change."""
    client = LastingClient(name)
    tls = ssl.create_default_context(cafile=str(settings.nats_ca_file)) if settings.nats_ca_file else None
    attempt = client.open(
        settings.nats_url,
        user=settings.nats_user or None,
        password=settings.nats_password.get_secret_value() or None,
        tls=tls,
    )
    try:
        # The client itself would try its first connection for ever.
        await _within(CONNECT_TIMEOUT_SECONDS, attempt)
        client.opened()
    except (NatsError, OSError, TimeoutError) as error:
        reason = type(client.trouble or error).__name__
        raise BrokerUnavailable(
            f"NATS at {settings.nats_url} cannot be reached: {reason}; is nats-server running?"
        ) from error
    finally:
        if not client.was_opened:
            # Given up half way, the client leaves its socket open. One that never began to connect says so.
            with contextlib.suppress(AssertionError):
                await disconnect(client)
    return client


async def disconnect(client: Client) -> None:
    """Close the connection; it may be broken already, which the client itself would raise."""
    if isinstance(client, LastingClient):
        client.leave()
    with contextlib.suppress(NatsError, OSError):
        await client.close()


async def _within(seconds: float, attempt: Coroutine[Any, Any, None]) -> None:
    """Wait for an attempt, or end it for certain and raise `TimeoutError`, or the cancellation that came meanwhile."""
    task = asyncio.create_task(attempt)
    try:
        await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if not task.done():
        await _end(task)
        raise TimeoutError
    task.result()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel until it is over: a cancellation that meets a refused connection is lost inside the client."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    if not task.cancelled():
        task.exception()  # looked at, so that nobody is told that it was not
