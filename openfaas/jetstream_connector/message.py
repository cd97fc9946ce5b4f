"""One JetStream message in hand: its event, where it stands in its stream, what happened to it before."""

import base64
from dataclasses import dataclass, field
from typing import Any

from nats.aio.msg import Msg
from pydantic import ValidationError

from bucky.cloudevents import CloudEvent, DeadLettered


@dataclass
class AttemptRecord:
    """Failed attempts so far, whether to send it alone, and how often it was lost while others were fine."""

    attempts: int = 0
    alone: bool = False
    losses: int = 0
    # The function's count of answers when this message was last lost alone; memory only.
    lost_at: int | None = None


@dataclass
class Message:
    """A message that was fetched and not yet settled; `event` is None when it is not a CloudEvent."""

    raw: Msg
    event: CloudEvent | None
    record: AttemptRecord = field(default_factory=AttemptRecord)

    @classmethod
    def read(cls, raw: Msg) -> "Message":
        """Read a message; what is malformed is kept as it came."""
        try:
            return cls(raw, CloudEvent.model_validate_json(raw.data))
        except ValidationError:
            return cls(raw, None)

    @property
    def sequence(self) -> int:
        """The message's sequence in its stream."""
        return self.raw.metadata.sequence.stream

    @property
    def deliveries(self) -> int:
        """How often JetStream handed it out, this time included."""
        return self.raw.metadata.num_delivered

    @property
    def key(self) -> str:
        """A name for this message at this consumer; the time tells apart streams made anew."""
        metadata = self.raw.metadata
        return f"{metadata.consumer}.{metadata.sequence.stream}.{int(metadata.timestamp.timestamp() * 1e6)}"

    @property
    def is_dead_letter(self) -> bool:
        """Whether the event is a dead letter itself."""
        return self.raw.subject.startswith(DeadLettered.TYPE + ".")

    def original(self) -> dict[str, Any]:
        """Return the event as it was published; what is no CloudEvent as `{"raw": base64}`."""
        if self.event is None:
            return {"raw": base64.b64encode(self.raw.data).decode()}
        return self.event.model_dump(mode="json", exclude_none=True)
