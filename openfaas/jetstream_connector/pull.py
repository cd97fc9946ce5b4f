"""Asking a durable pull consumer for messages (NATS ADR-13), with one request for each answer.

The client's own `fetch` returns at the first message and asks again for each that follows, with tasks of its own
for every message. Here one request waits for a first message, and one more takes what else comes.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import APIError

_NEXT = "$JS.API.CONSUMER.MSG.NEXT"
_HEARTBEAT = "100"
# No messages, the request has expired, or it met a change of the consumer: ask again.
_OVER = frozenset({"404", "408", "409"})
# What the broker is given to say that a request is over, once it is.
_ANSWER_SECONDS = 0.5
_END_SECONDS = 2.0


class Pull:
    """The inbox of one consumer; one task at a time may ask."""

    def __init__(self, client: Client, stream: str, durable: str) -> None:
        self._client, self._subject, self._inbox = client, f"{_NEXT}.{stream}.{durable}", client.new_inbox()
        self._came: deque[Msg] = deque()
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None
        self._closed = False

    @classmethod
    async def open(cls, client: Client, stream: str, durable: str) -> Self:
        """Open an inbox for a consumer that exists."""
        pull = cls(client, stream, durable)
        pull._subscription = await client.subscribe(pull._inbox, cb=pull._take_in)
        return pull

    async def first(self, seconds: float) -> list[Msg]:
        """Return one message as soon as there is one, or none after a time; raise `NatsError`."""
        return await self._ask({"batch": 1, "expires": int(seconds * 1e9)}, 1, seconds + _ANSWER_SECONDS)

    async def more(self, size: int, seconds: float) -> list[Msg]:
        """Return a number of messages once they are there, or those that are after a time; raise `NatsError`."""
        waiting: dict[str, object] = {"expires": int(seconds * 1e9)} if seconds > 0 else {"no_wait": True}
        return await self._ask({"batch": size, **waiting}, size, seconds + _ANSWER_SECONDS)

    async def end(self) -> list[Msg]:
        """Take nothing more, so that no request left open gets what is handed back; return what had come already."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self._client.is_connected:
            # What a broker that is going away sends after this comes again after its ack wait.
            with contextlib.suppress(NatsError, TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await subscription.drain()  # type: ignore[no-untyped-call]
        return self._waiting(len(self._came))

    async def close(self) -> None:
        """Close the inbox; what was sent to it comes again."""
        self._closed = True
        self._news.set()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _take_in(self, message: Msg) -> None:
        self._came.append(message)
        self._news.set()

    def _waiting(self, size: int) -> list[Msg]:
        """Take what a request before was sent too late; its statuses mean nothing any more."""
        self._came = deque(message for message in self._came if _status(message) is None)
        return [self._came.popleft() for _ in range(min(size, len(self._came)))]

    async def _ask(self, request: dict[str, object], size: int, seconds: float) -> list[Msg]:
        found = self._waiting(size)
        if len(found) == size:
            return found
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)
        deadline = time.monotonic() + seconds
        while len(found) < size and await self._next(deadline):
            message = self._came.popleft()
            status = _status(message)
            if status is None:
                found.append(message)
            elif status in _OVER:
                break
            elif status != _HEARTBEAT:
                APIError.from_msg(message)
        return found

    async def _next(self, deadline: float) -> bool:
        """Wait for something to come; return whether it did."""
        while not self._came:
            if self._closed:
                return False
            self._news.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._news.wait()
            except TimeoutError:
                return False
        return True


def _status(message: Msg) -> str | None:
    """Return the status that a message is instead of one from the stream."""
    return (message.headers or {}).get("Status") if not message.data else None
