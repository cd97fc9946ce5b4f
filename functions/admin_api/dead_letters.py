"""The dead letters of the stream `DEADLETTERS`: read newest first, sent again, then removed."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from admin_api.broker_link import BrokerLink
from bucky.errors import BrokerUnavailable, NotFound, Permanent
from bucky.events import CloudEvent, DeadLettered, DeliveryRequested

STREAM = "DEADLETTERS"
READ_AT_ONCE = 50
# Removed letters leave gaps in the sequence; one request crosses at most so many.
SCAN_LIMIT = 5_000


@dataclass(frozen=True)
class DeadLetter:
    """One message of the stream; `content` is None when it is not a dead letter as Bucky writes them."""

    sequence: int
    recorded_at: datetime | None
    subject: str
    content: DeadLettered | None

    @property
    def delivery(self) -> DeliveryRequested | None:
        """Return the delivery it stopped, if it stopped one."""
        event = self.event
        if event is None or event.type != DeliveryRequested.TYPE:
            return None
        try:
            return DeliveryRequested.model_validate(event.data)
        except ValidationError:
            return None

    @property
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

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether the letter is meant; `reason` is part of the reason, in any case."""
        content, delivery = letter.content, letter.delivery
        return (
            (not self.function or (content is not None and content.function == self.function))
            and (not self.destination or (delivery is not None and delivery.destination == self.destination))
            and (not self.reason or (content is not None and self.reason.lower() in content.reason.lower()))
        )


@dataclass(frozen=True)
class Page:
    """Dead letters, newest first; `before` continues the list, and is None at its end."""

    letters: tuple[DeadLetter, ...]
    before: int | None


class DeadLetterBox:
    """Reads, publishes again and removes dead letters; raises `BrokerUnavailable` when NATS does not answer."""

    def __init__(self, link: BrokerLink) -> None:
        self._link = link

    async def count(self) -> int:
        """Return how many there are."""
        async with _Translating():
            return int((await self._link.jetstream().stream_info(STREAM)).state.messages)

    async def page(self, wanted: Filter, limit: int, before: int | None = None) -> Page:
        """Return up to `limit` letters older than the sequence `before`."""
        async with _Translating():
            js = self._link.jetstream()
            state = (await js.stream_info(STREAM)).state
            top = state.last_seq if before is None else min(before - 1, state.last_seq)
            first = max(1, state.first_seq)
            bottom = max(first, top - SCAN_LIMIT + 1)
            found: list[DeadLetter] = []
            while top >= bottom:
                low = max(bottom, top - READ_AT_ONCE + 1)
                read = await asyncio.gather(*(_read(js, number) for number in range(top, low - 1, -1)))
                for letter in read:
                    if letter is not None and wanted.matches(letter):
                        found.append(letter)
                        if len(found) == limit:
                            more = letter.sequence > first
                            return Page(tuple(found), letter.sequence if more else None)
                top = low - 1
            return Page(tuple(found), bottom if bottom > first else None)

    async def get(self, sequence: int) -> DeadLetter:
        """Return one letter, or raise `NotFound`."""
        async with _Translating():
            letter = await _read(self._link.jetstream(), sequence)
        if letter is None:
            raise NotFound(f"There is no dead letter {sequence}; it may have been sent again already.")
        return letter

    async def send_again(self, letter: DeadLetter) -> None:
        """Publish the original event on its subject; return once the stream has it.

        The `Nats-Msg-Id` is new, or the duplicate window would swallow the event, and belongs to this
        letter, so that asking twice sends it once.
        """
        event = letter.event
        if letter.content is None or event is None:
            raise Permanent(f"Dead letter {letter.sequence} holds no event that could be sent again.")
        await self.publish(event, letter.content.subject, f"redrive-{letter.sequence}")

    async def publish(self, event: CloudEvent, subject: str, attempt: str) -> None:
        """Publish an event once more; `attempt` tells this time from the others."""
        async with _Translating():
            await self._link.jetstream().publish(
                subject, event.to_json(), timeout=5, headers={"Nats-Msg-Id": f"{event.nats_msg_id}/{attempt}"}
            )

    async def remove(self, letter: DeadLetter) -> None:
        """Delete the letter from the stream."""
        async with _Translating():
            try:
                await self._link.jetstream().delete_msg(STREAM, letter.sequence)
            except NotFoundError:
                return  # somebody else has removed it


class _Translating:
    """Turn the client's exceptions into Bucky's."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, NatsError | OSError | TimeoutError):
            raise BrokerUnavailable(
                f"NATS JetStream did not answer ({type(error).__name__}); nothing was changed, try again."
            ) from error


async def _read(js: JetStreamContext, sequence: int) -> DeadLetter | None:
    try:
        message = await js.get_msg(STREAM, sequence)
    except NotFoundError:
        return None
    return dead_letter(message, sequence)


def dead_letter(message: RawStreamMsg, sequence: int) -> DeadLetter:
    """Read a message of the stream, whoever wrote it."""
    try:
        payload = CloudEvent.model_validate_json(message.data or b"").payload()
        content = payload if isinstance(payload, DeadLettered) else None
    except (ValidationError, Permanent):
        content = None
    return DeadLetter(sequence, message.time, str(message.subject), content)
