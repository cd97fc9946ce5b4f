"""What nats-py lacks for many messages of a stream: reading hundreds at once, and removing them quickly.

Batched direct get is described in ADR-31 of NATS and needs nats-server 2.11.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from bucky.errors import BrokerUnavailable

ANSWER_SECONDS = 5.0
# The message is not there: never was, or was removed.
_GONE = (10037, 10043)
_NO_MESSAGES, _END_OF_BATCH, _NO_RESPONDERS = "404", "204", "503"


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a stream, and when it got there."""

    sequence: int
    subject: str
    stored_at: datetime
    data: bytes


async def read_from(client: Client, stream: str, sequence: int, most: int) -> list[StoredMessage]:
    """Return messages from a sequence number on, in order, up to a limit; none when there are none."""
    return await _asked(client, stream, {"seq": sequence, "batch": most})


async def first_since(client: Client, stream: str, moment: datetime) -> StoredMessage | None:
    """Return the first message stored at a moment or later."""
    found = await _asked(client, stream, {"start_time": moment.isoformat(), "batch": 1})
    return found[0] if found else None


async def remove(client: Client, stream: str, sequence: int) -> None:
    """Remove a message, if it is there.

    Without overwriting its bytes on the disk, which takes twenty times as long: events hold no patient data.
    """
    request = json.dumps({"seq": sequence, "no_erase": True}).encode()
    answer = await client.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", request, timeout=ANSWER_SECONDS)
    error = json.loads(answer.data).get("error")
    if error is not None and error.get("err_code") not in _GONE:
        raise BrokerUnavailable(f"The broker did not remove message {sequence} of {stream}: {error.get('description')}")


async def _asked(client: Client, stream: str, request: Mapping[str, Any]) -> list[StoredMessage]:
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    found: list[StoredMessage] = []
    try:
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
        async with asyncio.timeout(ANSWER_SECONDS):
            while True:
                answer = await answers.next_msg(timeout=ANSWER_SECONDS)
                status = (answer.headers or {}).get("Status")
                if status in (_END_OF_BATCH, _NO_MESSAGES):
                    return found
                if status is not None:
                    raise BrokerUnavailable(_refused(stream, status))
                found.append(_stored(answer))
    finally:
        await answers.unsubscribe()


def _refused(stream: str, status: str) -> str:
    if status == _NO_RESPONDERS:
        return f"The stream {stream} does not answer direct reads: it is away, or was made without `allow_direct`."
    return f"The broker refused to read the stream {stream} (status {status})."


def _stored(answer: Msg) -> StoredMessage:
    headers = answer.headers or {}
    # RFC 3339 with nanoseconds, which `datetime` has not.
    moment, _, fraction = headers["Nats-Time-Stamp"].rstrip("Z").partition(".")
    stored_at = datetime.fromisoformat(f"{moment}.{fraction[:6]:0<6}+00:00")
    return StoredMessage(int(headers["Nats-Sequence"]), headers["Nats-Subject"], stored_at, answer.data)
