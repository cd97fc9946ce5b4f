"""Makes dead letters: the original event, and everything needed to understand it and send it again."""

from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.trace import child_of
from jetstream_connector.message import Message

SOURCE = "/jetstream-connector"
# What the reason, the headers and the envelope may add to the original.
ENVELOPE_BYTES = 16_000


def dead_letter(function: str, message: Message, reason: str, attempts: int, max_event_bytes: int) -> CloudEvent:
    """Return the dead letter of a message; an original too large to be carried is named, not carried."""
    original = message.original()
    headers = dict(message.raw.headers or {})
    if len(message.raw.data) * 4 // 3 + ENVELOPE_BYTES > max_event_bytes:
        original = {"omitted": "too large; it is in its stream", "stream": message.raw.metadata.stream}
    if sum(len(name) + len(value) for name, value in headers.items()) > ENVELOPE_BYTES // 2:
        headers = {}
    payload = DeadLettered(
        function=function,
        reason=reason,
        attempts=attempts,
        subject=message.raw.subject,
        stream_sequence=message.sequence,
        event=original,
        headers=headers,
    )
    cause = message.event.traceparent if message.event else None
    return CloudEvent.of(payload, source=SOURCE, traceparent=child_of(cause))
