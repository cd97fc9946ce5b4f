"""Counts failed attempts, in a NATS key-value bucket so that a restart does not forget them.

JetStream's own delivery count is of no use here: it grows with every delivery, also when the function was
down, busy or restarted, and infrastructure trouble must never make a dead letter. So the connector counts
what it judged a failed attempt. A message that was never delivered before has no record, and one that
succeeds at first never gets one: the bucket is touched only by failures. Records that cannot be written
(the broker is away) live on in memory; at worst a restart in that moment gives a message more attempts,
never fewer, and a poison message still ends as a dead letter once the broker is back.
"""

import json
from dataclasses import asdict

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from nats.js.kv import KeyValue

from bucky.errors import BrokerUnavailable
from jetstream_connector.message import AttemptRecord, Message

BUCKET = "connector-attempts"
KEPT_SECONDS = 30 * 24 * 3600.0


class AttemptStore:
    """Remembers the records of messages that failed and will be delivered again."""

    def __init__(self, js: JetStreamContext, replicas: int = 1) -> None:
        self._js = js
        self._replicas = replicas
        self._bucket: KeyValue | None = None
        self._records: dict[str, AttemptRecord] = {}

    async def load(self, message: Message) -> None:
        """Give a message its record; raise `BrokerUnavailable` when it cannot be known."""
        if message.deliveries == 1:
            return
        known = self._records.get(message.key)
        message.record = known if known is not None else await self._read(message.key)

    async def save(self, message: Message, *, durable: bool) -> None:
        """Remember a message's record; with `durable`, beyond a restart."""
        self._records[message.key] = message.record
        if durable:
            record = {name: value for name, value in asdict(message.record).items() if name != "lost_at"}
            try:
                await (await self._open()).put(message.key, json.dumps(record).encode())
            except (NatsError, TimeoutError) as error:
                raise BrokerUnavailable("the attempt could not be counted durably") from error

    async def forget(self, message: Message) -> None:
        """Drop the record of a settled message."""
        record = self._records.pop(message.key, message.record)
        if record.attempts or record.losses:
            try:
                bucket = await self._open()
                await self._js.purge_stream(f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.{message.key}")
            except (NatsError, TimeoutError):
                # It expires by itself; a message that is settled is not looked up again.
                self._bucket = None
            else:
                self._bucket = bucket

    async def _read(self, key: str) -> AttemptRecord:
        try:
            entry = await (await self._open()).get(key)
        except KeyNotFoundError:
            return AttemptRecord()
        except (NatsError, TimeoutError) as error:
            self._bucket = None
            raise BrokerUnavailable("the attempts so far cannot be read") from error
        return AttemptRecord(**json.loads(entry.value or b"{}"))

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            try:
                self._bucket = await self._js.key_value(BUCKET)
            except BucketNotFoundError:
                self._bucket = await self._js.create_key_value(
                    KeyValueConfig(
                        bucket=BUCKET,
                        description="Failed attempts of the connector's messages",
                        ttl=KEPT_SECONDS,
                        storage=StorageType.FILE,
                        replicas=self._replicas,
                    )
                )
        return self._bucket
