"""A NATS client that no fault of the connection, the server or the network ends.

The client of nats-py closes for good on most `-ERR` lines, waits for minutes on a connection that is half open, and
stops reconnecting on an answer that is not NATS. This one reconnects from all of these, with every subscription,
until it is told to leave. It overrides private methods, which are held against real servers by
`tests/integration/bucky/broker/test_broker_faults.py`; the version of nats-py is locked.
"""

import asyncio
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError

from bucky.log import get_logger

RECONNECT_WAIT_SECONDS = 0.5
CONNECT_SECONDS = 5
# A connection without an answer is given up after `PING_SECONDS * (MOST_UNANSWERED + 1)`.
PING_SECONDS = 2
MOST_UNANSWERED = 2
# How long a publisher waits for room in a full buffer before it says so.
FLUSH_SECONDS = 5.0
_ENDS_NOTHING = "permissions violation"


class BrokerRefused(NatsError):
    """The server ended the connection with an `-ERR` line."""


class LastingClient(Client):
    """Reconnects for ever; `open` it, say `opened`, and `leave` before closing it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._log = get_logger(name)
        self._name = name
        self._leaving = False
        self._up = False
        self.was_opened = False
        self.trouble: Exception | None = None
        self.ended = asyncio.Event()

    async def open(self, url: str, **options: Any) -> None:
        """Make the first connection, trying for ever."""
        await self.connect(
            url,
            name=self._name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # narrower than what it takes
            connect_timeout=CONNECT_SECONDS,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=MOST_UNANSWERED,
            flush_timeout=FLUSH_SECONDS,
            error_cb=self._failed,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            closed_cb=self._closed,
            **options,
        )

    def opened(self) -> None:
        """Note that the first connection is made."""
        self.was_opened = self._up = True

    def leave(self) -> None:
        """Note that the connection is to be closed, and stay closed."""
        self._leaving = True

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect on every `-ERR` that ends a connection; the client itself would close for good."""
        said = err_msg.strip().strip("'")
        if _ENDS_NOTHING in said.lower():
            await self._failed(NatsError(f"nats: {said}"))
            return
        stale = "stale connection" in said.lower()
        error = StaleConnectionError() if stale else BrokerRefused(f"nats: {said}")
        await self._failed(error)
        await self._process_op_err(error)

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            self._abort()
        await super()._process_op_err(e)

    async def _connect_to_server(self, s: Any) -> None:
        # The one before may have connected, and been no broker: the client would leave it open.
        self._abort()
        await super()._connect_to_server(s)

    def _abort(self) -> None:
        """Drop a connection at once: what nobody takes keeps one that is closed the usual way open for many minutes."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _attempt_reconnect(self) -> None:
        while not self._leaving:
            try:
                return await super()._attempt_reconnect()
            except Exception as error:  # noqa: BLE001 - whatever answers there, it may be a broker again later
                await self._failed(error)
                await asyncio.sleep(RECONNECT_WAIT_SECONDS)

    async def _failed(self, error: Exception) -> None:
        self.trouble = error
        # While it is away, each attempt fails the same way: the change was logged.
        (self._log.warning if self._up else self._log.debug)("broker.error", error=type(error).__name__)

    async def _disconnected(self) -> None:
        if self._up and not self.is_closed:
            self._log.warning("broker.disconnected")
        self._up = False

    async def _reconnected(self) -> None:
        self._up, self.trouble = True, None
        self._log.info("broker.reconnected")

    async def _closed(self) -> None:
        if not self._leaving and self.was_opened:
            self._log.error("broker.closed", error=type(self.trouble).__name__)
            self.ended.set()
