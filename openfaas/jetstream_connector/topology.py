"""Finds the one stream that takes a subject."""

import json

from nats.aio.client import Client
from nats.errors import Error as NatsError

from bucky.errors import BrokerUnavailable

TIMEOUT_SECONDS = 5


class NoSingleStream(BrokerUnavailable):
    """No stream, or more than one, takes the subject; the message says which."""


async def stream_of(client: Client, subject: str) -> str:
    """Return the stream's name; raise `NoSingleStream`, or `BrokerUnavailable` when the broker is away."""
    request = json.dumps({"subject": subject}).encode()
    try:
        answer = await client.request("$JS.API.STREAM.NAMES", request, timeout=TIMEOUT_SECONDS)
    except (NatsError, OSError) as error:
        raise BrokerUnavailable(f"JetStream does not answer: {type(error).__name__}") from error
    streams = json.loads(answer.data).get("streams") or []
    if not streams:
        raise NoSingleStream(f"no stream takes {subject}; create one, or correct the topic")
    if len(streams) > 1:
        raise NoSingleStream(f"{subject} is in {' and '.join(sorted(streams))}; give each stream a topic of its own")
    return str(streams[0])
