"""What is still in the streams: events that a function has yet to finish, and those it once had."""

from collections.abc import AsyncIterator, Container
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from bucky.cloudevents import CloudEvent

FETCHED_AT_ONCE = 500
FETCH_SECONDS = 2.0
# The server forgets a reader of ours that was killed.
FORGOTTEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Read:
    """A message of a stream."""

    sequence: int
    subject: str
    stored_at: datetime
    event: CloudEvent


async def read(
    js: JetStreamContext, stream: str, subject: str, *, sequence: int = 1, since: datetime | None = None
) -> AsyncIterator[Read]:
    """Yield the events on a subject from a sequence, or from a time, to the last there is now."""
    start: dict[str, Any] = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": max(1, sequence)}
    if since is not None:
        start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": since}
    wanted = ConsumerConfig(
        filter_subject=subject, ack_policy=AckPolicy.NONE, inactive_threshold=FORGOTTEN_SECONDS, **start
    )
    info = await js.add_consumer(stream, wanted)
    pull = await js.pull_subscribe_bind(consumer=info.name, stream=stream)
    left = info.num_pending or 0
    try:
        while left > 0:
            try:
                messages = await pull.fetch(min(left, FETCHED_AT_ONCE), timeout=FETCH_SECONDS)
            except TimeoutError:
                # A busy broker takes its time; it knows whether something is left, or was removed meanwhile.
                if not (await pull.consumer_info()).num_pending:
                    return
                continue
            left -= len(messages)
            for message in messages:
                try:
                    event = CloudEvent.model_validate_json(message.data)
                except ValidationError:
                    continue
                metadata = message.metadata
                yield Read(metadata.sequence.stream, message.subject, metadata.timestamp, event)
    finally:
        await pull.unsubscribe()
        await _forget(js, stream, info.name)


async def waiting_ids(js: JetStreamContext, stream: str, subject: str, function: str) -> set[str]:
    """Return the ids of the events on a subject that a function has, or may have, yet to finish."""
    floors = await _floors(js, stream, function)
    lowest = min((floor for _, floor in floors), default=0)
    waiting: set[str] = set()
    async for one in read(js, stream, subject, sequence=lowest + 1):
        # A subject that nobody pulls from waits as a whole.
        floor = min((floor for pattern, floor in floors if _covers(pattern, one.subject)), default=0)
        if one.sequence > floor:
            waiting.add(one.event.id)
    return waiting


async def oldest_waiting(js: JetStreamContext, stream: str, subject: str, function: str) -> datetime | None:
    """Return when the oldest event came that a function may have yet to finish, or None when there is none."""
    floors = await _floors(js, stream, function)
    floor = min((floor for pattern, floor in floors if _covers(pattern, subject)), default=0)
    try:
        oldest = await js.get_msg(stream, floor + 1, subject=subject, next=True)
    except NotFoundError:
        return None
    return oldest.time


async def last_told(
    js: JetStreamContext, stream: str, subject: str, ids: Container[str], since: datetime
) -> dict[str, CloudEvent]:
    """Return the last event with each of these ids that the stream still has."""
    return {one.event.id: one.event async for one in read(js, stream, subject, since=since) if one.event.id in ids}


async def _floors(js: JetStreamContext, stream: str, function: str) -> list[tuple[str, int]]:
    """Return each subject a function pulls from, with the sequence up to which it has finished everything."""
    found: list[ConsumerInfo] = []
    while page := await js.consumers_info(stream, offset=len(found)):
        found += page
    return [
        (subject, one.ack_floor.stream_seq if one.ack_floor else 0)
        for one in found
        if one.name.startswith(f"{function}-")
        for subject in one.config.filter_subjects or [one.config.filter_subject or ">"]
    ]


def _covers(pattern: str, subject: str) -> bool:
    """Return whether a consumer's filter takes a subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1]
    return len(wanted) == len(tokens) and all(one in ("*", token) for one, token in zip(wanted, tokens, strict=True))


async def _forget(js: JetStreamContext, stream: str, name: str) -> None:
    try:
        await js.delete_consumer(stream, name)
    except NotFoundError:
        return  # the server was sooner
