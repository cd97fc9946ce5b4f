"""Calling one HTTP/1.1 server again and again, on connections that are kept: for calls whose cost is felt.

A general client spends a millisecond on what a call between two processes of one machine needs; this does no more
than that: the whole body goes out, the whole answer comes back. No redirects, cookies, encodings or proxies.

    CallFailed
    ├── NotConnected    nothing was sent
    ├── Silent          nothing came for too long
    └── Broken          the connection ended before the answer did, or it was no answer
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field

import httptools

from bucky.errors import BuckyError

CONNECT_SECONDS = 5.0


class CallFailed(BuckyError):
    """A call got no answer."""


class NotConnected(CallFailed):
    """The server could not be reached."""


class Silent(CallFailed):
    """The server did not answer in time."""


class Broken(CallFailed):
    """The connection was lost during the call, or the answer is not HTTP."""


@dataclass(slots=True)
class HttpResponse:
    """An answer; header names as they came. `cut_short` when it was longer than anybody asked for."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    cut_short: bool = False

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, by its name in lower case."""
        found = (value for key, value in self.headers if key.lower() == name)
        return next((value.decode("latin-1") for value in found), None)


class ConnectionPool:
    """The connections to one server; each serves one call at a time, and is closed after `idle_seconds` without."""

    def __init__(self, host: str, port: int, *, idle_seconds: float, tls: ssl.SSLContext | None = None) -> None:
        self._host, self._port, self._tls, self._idle_seconds = host, port, tls, idle_seconds
        self._idle: deque[_Connection] = deque()

    async def call(self, head: bytes, body: bytes, *, silence: float, most_bytes: int) -> HttpResponse:
        """Send a request and return the answer; `silence` seconds without a byte, and it is given up.

        `head` is the request line and the headers, Content-Length among them, without the empty line.
        """
        connection = self._kept() or await self._opened()
        try:
            answer = await connection.call(head + b"\r\n\r\n" + body, silence, most_bytes)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        """Close the connections that no call is on."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> "_Connection | None":
        """Return the connection used last, and close those that have not been for too long."""
        oldest = asyncio.get_running_loop().time() - self._idle_seconds
        while self._idle and self._idle[0].idle_since < oldest:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _opened(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        except OSError as error:  # TimeoutError is one
            raise NotConnected(type(error).__name__) from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection; the parser calls its `on_…` methods."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.reusable = True
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[HttpResponse] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer, self._most_bytes, self._heard_at = HttpResponse(), 0, 0.0
        self._ends_with_connection = False

    async def call(self, request: bytes, silence: float, most_bytes: int) -> HttpResponse:
        assert self._transport is not None  # noqa: S101 - it is connected
        self._parser, self._answer = httptools.HttpResponseParser(self), HttpResponse()
        self._most_bytes, self._heard_at = most_bytes, self._loop.time()
        waiting: asyncio.Future[HttpResponse] = self._loop.create_future()
        self._waiting = waiting
        self._watching = self._loop.call_later(silence, self._watch, silence)
        self._transport.write(request)
        try:
            return await waiting
        finally:
            self._watching.cancel()
            self._waiting = None

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP and TLS are
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Broken(type(error).__name__))

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        if self._ends_with_connection and error is None:
            self.on_message_complete()
        self._fail(Broken(type(error).__name__ if error else "the connection was closed"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._answer.headers)
        self._ends_with_connection = not framed
        self.reusable = self.reusable and framed and self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self._answer.body += data
        if len(self._answer.body) > self._most_bytes:
            self._answer.cut_short, self.reusable = True, False
            self.on_message_complete()

    def on_message_complete(self) -> None:
        if 100 <= self._answer.status < 200:
            self._answer = HttpResponse()
        elif self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)

    def _fail(self, error: CallFailed) -> None:
        self.reusable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def _watch(self, silence: float) -> None:
        left = self._heard_at + silence - self._loop.time()
        if left > 0:
            self._watching = self._loop.call_later(left, self._watch, silence)
        else:
            self._fail(Silent("TimeoutError"))
