"""CloudEvents 1.0: the envelope of every event, and what all payloads have in common. Nothing here knows DICOM."""

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"

URGENT: Literal["urgent"] = "urgent"
Priority = Literal["urgent", "routine"]


def utc_now() -> datetime:
    """Return the time now, with its zone."""
    return datetime.now(UTC)


class Payload(BaseModel):
    """What happened; subclasses say it in the past tense."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def event_id(self) -> str:
        """Return the id that makes publishing twice one message."""
        raise NotImplementedError

    def partition_key(self) -> str | None:
        """Return a token of the NATS subject, where events of one type go separate ways."""
        return None

    def urgency(self) -> str | None:
        """Return `urgent` for what must not wait behind the rest of its kind."""
        return None


class CloudEvent(BaseModel):
    """A CloudEvents 1.0 envelope; unknown extension attributes are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    specversion: str = Field(default="1.0", pattern=r"^1\.0$")
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    subject: str | None = None
    time: AwareDatetime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    partitionkey: str | None = None
    traceparent: str | None = None
    # Extensions of ours; other people's events may use the names for something else.
    priority: Any = None
    repetition: Any = None
    data: Any = None

    @classmethod
    def of(cls, payload: Payload, *, source: str, traceparent: str | None = None) -> Self:
        """Wrap a payload in its envelope."""
        return cls(
            id=payload.event_id(),
            source=source,
            type=payload.TYPE,
            time=utc_now(),
            datacontenttype="application/json",
            dataschema=f"urn:bucky:event:{payload.TYPE}:{payload.VERSION}",
            partitionkey=payload.partition_key(),
            traceparent=traceparent,
            priority=payload.urgency(),
            data=payload.model_dump(mode="json"),
        )

    @property
    def nats_subject(self) -> str:
        """Return the NATS subject: the type, the partition key where there is one, `urgent` where it is."""
        subject = f"{self.type}.{self.partitionkey}" if self.partitionkey else self.type
        return f"{subject}.{URGENT}" if self.priority == URGENT else subject

    @property
    def nats_msg_id(self) -> str:
        """Return the `Nats-Msg-Id`: ids are unique per type, the header is per stream.

        `repetition` tells an event that is meant to be heard once more from the one before it.
        """
        name = f"{self.nats_subject}/{self.id}"
        return f"{name}/{self.repetition}" if isinstance(self.repetition, str) else name

    def once_more(self, repetition: str) -> Self:
        """Return the event as it is published again on purpose; each repetition is one message."""
        return self.model_copy(update={"repetition": repetition})

    def to_json(self) -> bytes:
        """Return the structured-mode JSON (CloudEvents JSON format §2)."""
        return self.model_dump_json(exclude_none=True).encode()


class DeadLettered(Payload):
    """A function could not process an event; `event` is that event, whole, `headers` its NATS headers."""

    TYPE: ClassVar[str] = "deadletter"
    function: str
    reason: str
    attempts: int
    subject: str
    stream_sequence: int
    event: dict[str, Any]
    headers: dict[str, str] = {}

    def event_id(self) -> str:
        """Return an id made of the function and the message it could not process."""
        return f"{self.function}:{self.subject}:{self.stream_sequence}"

    def partition_key(self) -> str | None:
        """Return the function's name."""
        return self.function
