"""Publishing in atomic batches (JetStream, nats-server 2.12 and newer; ADR-50 of NATS).

Single publishes do not share a sync of the broker's disk, a batch does; but a batch has a cost of its own,
which few messages do not earn back. A batch is stored whole or not at all, and one message the stream
already has refuses the whole batch: then each message goes singly.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import Header
from nats.js.errors import APIError, NotFoundError

from bucky.broker.connection import PUBLISH_TIMEOUT_SECONDS, JetStreamPublisher
from bucky.cloudevents import CloudEvent
from bucky.errors import BrokerUnavailable
from bucky.log import get_logger

# Measured: a batch costs as much as 8 single publishes, where a sync is fast; the server's limit is 1000.
LEAST_EVENTS = 8
MOST_EVENTS = 500
MOST_BYTES = 4 * 1024 * 1024
MOST_SUBJECTS = 10_000
# How long a stream that takes no batches is left in peace; an upgrade of the server is noticed after it.
SINGLY_SECONDS = 60.0
_ATOMIC_DISABLED = 10174

log = get_logger("broker")


@dataclass(frozen=True, slots=True)
class _Message:
    event: CloudEvent
    body: bytes


@dataclass(slots=True)
class _Group:
    """Messages that will be published together, by their `Nats-Msg-Id`; the task returns what failed."""

    messages: dict[str, _Message] = field(default_factory=dict)
    size: int = 0
    task: "asyncio.Task[dict[str, BaseException]] | None" = None

    def takes(self, message: _Message) -> bool:
        return len(self.messages) < MOST_EVENTS and self.size + len(message.body) <= MOST_BYTES

    def add(self, identifier: str, message: _Message) -> None:
        if identifier not in self.messages:
            self.messages[identifier] = message
            self.size += len(message.body)


class BatchPublisher:
    """Publishes together what is given at the same time, one group per stream at a time.

    Nobody waits for a group to fill: what comes while one is on its way makes the next.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream()
        self._single = JetStreamPublisher(self._js)
        self._streams: dict[str, str] = {}
        self._looking_up = asyncio.Lock()
        self._open: dict[str, _Group] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._singly_until: dict[str, float] = {}

    async def publish(self, event: CloudEvent) -> None:
        """Return once the stream has the event; raise `BrokerUnavailable` otherwise."""
        identifier, message = event.nats_msg_id, _Message(event, event.to_json())
        stream = await self._stream_of(event.nats_subject)
        group = self._open.get(stream)
        if group is None or not group.takes(message):
            group = self._open[stream] = _Group()
            group.task = asyncio.create_task(self._publish_in_turn(stream, group))
        group.add(identifier, message)
        assert group.task is not None  # noqa: S101 - given to it where it was made
        failed = await asyncio.shield(group.task)
        if identifier in failed:
            raise failed[identifier]

    async def _stream_of(self, subject: str) -> str:
        if subject not in self._streams:
            async with self._looking_up:
                if subject not in self._streams:
                    if len(self._streams) >= MOST_SUBJECTS:
                        self._streams.clear()
                    self._streams[subject] = await self._looked_up(subject)
        return self._streams[subject]

    async def _looked_up(self, subject: str) -> str:
        try:
            return await self._js.find_stream_name_by_subject(subject)
        except NotFoundError:
            raise BrokerUnavailable(f"no stream takes {subject}") from None
        except (NatsError, NatsTimeout, OSError) as error:
            raise BrokerUnavailable(f"JetStream does not answer: {type(error).__name__}") from error

    async def _publish_in_turn(self, stream: str, group: _Group) -> dict[str, BaseException]:
        async with self._turns.setdefault(stream, asyncio.Lock()):
            if self._open.get(stream) is group:
                del self._open[stream]
            return await self._publish_group(stream, group)

    async def _publish_group(self, stream: str, group: _Group) -> dict[str, BaseException]:
        messages = list(group.messages.values())
        if len(messages) >= LEAST_EVENTS and time.monotonic() >= self._singly_until.get(stream, 0.0):
            if await self._as_batch(stream, messages):
                return {}
            # Whatever it was, a stream made anew elsewhere would be found.
            for message in messages:
                self._streams.pop(message.event.nats_subject, None)
        outcomes = await asyncio.gather(
            *(self._single.publish(message.event) for message in messages), return_exceptions=True
        )
        pairs = zip(group.messages, outcomes, strict=True)
        return {identifier: outcome for identifier, outcome in pairs if outcome is not None}

    async def _as_batch(self, stream: str, messages: Sequence[_Message]) -> bool:
        """Publish all or nothing; return whether all is stored."""
        batch = secrets.token_hex(16)
        *first, last = messages
        try:
            for number, message in enumerate(first, 1):
                headers = _headers(message, batch, number)
                await self._client.publish(message.event.nats_subject, message.body, headers=headers)
            ack = await self._js.publish(
                last.event.nats_subject,
                last.body,
                timeout=PUBLISH_TIMEOUT_SECONDS,
                headers=_headers(last, batch, len(messages)) | {Header.BATCH_COMMIT.value: "1"},
            )
        except APIError as error:
            # A duplicate, most of all; the single publishes say what is wrong, if anything is.
            log.debug("broker.batch_refused", stream=stream, messages=len(messages), code=error.err_code)
            if error.err_code == _ATOMIC_DISABLED:
                self._go_singly(stream)
            return False
        except MaxPayloadError:
            # One of them is too large: it fails alone, and the others go through.
            return False
        except (NatsError, NatsTimeout, OSError) as error:
            raise BrokerUnavailable(f"JetStream did not acknowledge: {type(error).__name__}") from error
        if (ack.batch_id, ack.batch_size) == (batch, len(messages)):
            return True
        # A server older than 2.12 takes each message singly and says nothing about the batch.
        self._go_singly(stream)
        return False

    def _go_singly(self, stream: str) -> None:
        log.warning("broker.no_atomic_batches", stream=stream)
        self._singly_until[stream] = time.monotonic() + SINGLY_SECONDS


def _headers(message: _Message, batch: str, number: int) -> dict[str, str]:
    return {
        Header.MSG_ID.value: message.event.nats_msg_id,
        Header.BATCH_ID.value: batch,
        Header.BATCH_SEQUENCE.value: str(number),
    }
