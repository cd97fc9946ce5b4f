"""The dead letters of the stream `DEADLETTERS`: read newest first, sent again, then removed."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from nats.errors import Error as NatsError
from pydantic import ValidationError

from admin_api.broker_link import BrokerConnection
from admin_api.stream_reader import StoredMessage, first_since, read_from, remove
from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.errors import BrokerUnavailable, NotFound, Permanent
from bucky.events import DeliveryRequested, Instance, ProcessingRequested, ReceivedInstance, payload_of
from bucky.index import Noticed

STREAM = "DEADLETTERS"
READ_AT_ONCE = 500
# One request looks at no more letters than this, whether they match or not.
SCAN_LIMIT = 5_000
# A summary looks at a hundred thousand.
SUMMARY_PAGES = 20
NOT_OURS = "This message is not a dead letter as Bucky writes them."


@dataclass(frozen=True)
class StoredDeadLetter:
    """One message of the stream; `content` is None when it is not a dead letter as Bucky writes them."""

    sequence: int
    recorded_at: datetime
    subject: str
    content: DeadLettered | None

    @cached_property
    def delivery(self) -> DeliveryRequested | None:
        """Return the delivery it stopped, if it stopped one."""
        event = self.event
        if event is None or event.type not in (DeliveryRequested.TYPE, ProcessingRequested.TYPE):
            return None
        try:
            kind = DeliveryRequested if event.type == DeliveryRequested.TYPE else ProcessingRequested
            return kind.model_validate(event.data)
        except ValidationError:
            return None

    @cached_property
    def instance(self) -> Instance | None:
        """Return the instance it is about, if it is about one."""
        if self.delivery is not None:
            return self.delivery.instance
        try:
            return ReceivedInstance.model_validate(self.event.data if self.event else None)
        except ValidationError:
            return None

    @cached_property
    def event(self) -> CloudEvent | None:
        """Return the event that could not be processed, or None when it is no CloudEvent."""
        if self.content is None:
            return None
        try:
            return CloudEvent.model_validate(self.content.event)
        except ValidationError:
            return None


@dataclass(frozen=True)
class Filter:
    """Which dead letters are meant; an empty field means any."""

    function: str = ""
    destination: str = ""
    reason: str = ""
    study: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, letter: StoredDeadLetter) -> bool:
        """Return whether the letter is meant; `reason` is part of the reason, in any case."""
        content, delivery, instance = letter.content, letter.delivery, letter.instance
        return (
            (self.since is None or letter.recorded_at >= self.since)
            and (self.until is None or letter.recorded_at < self.until)
            and (not self.study or (instance is not None and instance.study_instance_uid == self.study))
            and (not self.function or (content is not None and content.function == self.function))
            and (not self.destination or (delivery is not None and delivery.destination == self.destination))
            and (not self.reason or (content is not None and self.reason.lower() in content.reason.lower()))
        )


@dataclass(frozen=True)
class Group:
    """Letters of one function, for one destination if for any, with one reason: how many, and over what time."""

    function: str
    destination: str
    reason: str
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class DeadLetterPage:
    """Dead letters, newest first; `before` continues the list, and is None at its end."""

    letters: tuple[StoredDeadLetter, ...]
    before: int | None


@dataclass(frozen=True)
class _Span:
    """The letters between two sequences, newest first; `first` is the first of the stream."""

    first: int
    bottom: int
    letters: list[StoredDeadLetter]


class DeadLetterBox:
    """Reads, publishes again and removes dead letters; raises `BrokerUnavailable` when NATS does not answer."""

    def __init__(self, link: BrokerConnection) -> None:
        self._link = link

    async def count(self) -> int:
        """Return how many there are."""
        async with _Translating():
            return int((await self._link.jetstream().stream_info(STREAM)).state.messages)

    async def by_function(self) -> dict[str, Noticed]:
        """Return how many there are of each function, and when the first came."""
        async with _Translating():
            js = self._link.jetstream()
            subjects = (await js.stream_info(STREAM, subjects_filter=">")).state.subjects or {}
            found: dict[str, Noticed] = {}
            for subject, count in sorted(subjects.items()):
                first = await js.get_msg(STREAM, 1, subject=subject, next=True)
                found[subject.removeprefix(f"{DeadLettered.TYPE}.")] = Noticed(count, first.time)
            return found

    async def page(self, wanted: Filter, limit: int, before: int | None = None) -> DeadLetterPage:
        """Return up to `limit` letters older than the sequence `before`."""
        found: list[StoredDeadLetter] = []
        span: _Span | None = None
        async with _Translating():
            async for span in self._newest_first(wanted, before):
                for letter in span.letters:
                    if wanted.since is not None and letter.recorded_at < wanted.since:
                        return DeadLetterPage(tuple(found), None)
                    if wanted.matches(letter):
                        found.append(letter)
                        if len(found) == limit:
                            more = letter.sequence > span.first
                            return DeadLetterPage(tuple(found), letter.sequence if more else None)
        more = span is not None and span.bottom > span.first
        return DeadLetterPage(tuple(found), span.bottom if span is not None and more else None)

    async def groups(self, wanted: Filter, most: int) -> tuple[list[Group], bool]:
        """Return up to `most` groups, the largest first, and whether every letter that matches is in one of them."""
        groups: dict[tuple[str, str, str], Group] = {}
        before: int | None = None
        complete = True
        for _ in range(SUMMARY_PAGES):
            page = await self.page(wanted, SCAN_LIMIT, before)
            for letter in page.letters:
                key = _group_of(letter)
                if key not in groups and len(groups) == most:
                    complete = False
                else:
                    groups[key] = _with(groups.get(key), key, letter)
            before = page.before
            if before is None:
                break
        return sorted(groups.values(), key=lambda group: -group.count), complete and before is None

    async def _newest_first(self, wanted: Filter, before: int | None) -> AsyncIterator[_Span]:
        """Yield what there is in spans of sequences, from the top down, until `SCAN_LIMIT` letters were read.

        Letters that were removed leave gaps: where there is little, the spans grow.
        """
        client = self._link.client()
        state = (await self._link.jetstream().stream_info(STREAM)).state
        top = state.last_seq if before is None else min(before - 1, state.last_seq)
        if wanted.until is not None:
            beyond = await first_since(client, STREAM, wanted.until)
            top = top if beyond is None else min(top, beyond.sequence - 1)
        first, width, read = max(1, state.first_seq), READ_AT_ONCE, 0
        while top >= first and read < SCAN_LIMIT and state.messages:
            bottom = max(first, top - width + 1)
            messages = await read_from(client, STREAM, bottom, READ_AT_ONCE)
            if len(messages) == READ_AT_ONCE and messages[-1].sequence < top:
                width = READ_AT_ONCE  # there is more in the span than was read
                continue
            letters = [dead_letter(message) for message in messages if message.sequence <= top]
            yield _Span(first, bottom, letters[::-1])
            read += len(letters)
            width = width * 2 if len(letters) < READ_AT_ONCE // 2 else READ_AT_ONCE
            top = bottom - 1

    async def get(self, sequence: int) -> StoredDeadLetter:
        """Return one letter, or raise `NotFound`."""
        async with _Translating():
            found = await read_from(self._link.client(), STREAM, sequence, 1)
        if not found or found[0].sequence != sequence:
            raise NotFound(f"There is no dead letter {sequence}; it may have been sent again already.")
        return dead_letter(found[0])

    async def send_again(self, letter: StoredDeadLetter) -> None:
        """Publish the original event on its subject; return once the stream has it.

        The `Nats-Msg-Id` is new, or the duplicate window would swallow the event, and belongs to this
        letter, so that asking twice sends it once.
        """
        event = letter.event
        if letter.content is None or event is None:
            raise Permanent(self.no_event(letter))
        await self.publish(event, letter.content.subject, f"redrive-{letter.sequence}")

    @staticmethod
    def no_event(letter: StoredDeadLetter) -> str:
        """Return why a letter cannot be sent again."""
        return f"Dead letter {letter.sequence} holds no event that could be sent again."

    async def publish(self, event: CloudEvent, subject: str, attempt: str) -> None:
        """Publish an event once more; `attempt` tells this time from the others."""
        async with _Translating():
            await self._link.jetstream().publish(
                subject, event.to_json(), timeout=5, headers={"Nats-Msg-Id": f"{event.nats_msg_id}/{attempt}"}
            )

    async def remove(self, letter: StoredDeadLetter) -> None:
        """Delete the letter from the stream; there is nothing to do when somebody else has."""
        async with _Translating():
            await remove(self._link.client(), STREAM, letter.sequence)


class _Translating:
    """Turn the client's exceptions into Bucky's."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, NatsError | OSError | TimeoutError):
            raise BrokerUnavailable(
                f"NATS JetStream did not answer ({type(error).__name__}); nothing was changed, try again."
            ) from error


def _group_of(letter: StoredDeadLetter) -> tuple[str, str, str]:
    delivery, content = letter.delivery, letter.content
    destination = delivery.destination if delivery else ""
    return (content.function, destination, content.reason) if content else ("", destination, NOT_OURS)


def _with(group: Group | None, key: tuple[str, str, str], letter: StoredDeadLetter) -> Group:
    """Return the group with one more letter, which is older than those in it."""
    if group is None:
        return Group(*key, 1, letter.recorded_at, letter.recorded_at)
    return replace(group, count=group.count + 1, first_at=letter.recorded_at)


def dead_letter(message: StoredMessage) -> StoredDeadLetter:
    """Read a message of the stream, whoever wrote it."""
    try:
        payload = payload_of(CloudEvent.model_validate_json(message.data))
        content = payload if isinstance(payload, DeadLettered) else None
    except (ValidationError, Permanent):
        content = None
    return StoredDeadLetter(message.sequence, message.stored_at, message.subject, content)
