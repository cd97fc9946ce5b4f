"""One transport connection in an asyncio loop: receives into a shared buffer, sends, holds a peer back."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import cast

from edge_scp.association.provider import UpperLayerProvider
from edge_scp.association.states import State

RECEIVED_AT_ONCE = 256 * 1024
# When a peer leaves more than this unread of what it was answered, nothing further is read from it.
UNREAD_BYTES = 64 * 1024
# Linux only. Without it a sender with Nagle's algorithm waits 40 ms for an acknowledgement at each message.
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)


def receive_buffer() -> memoryview:
    """Return a buffer for all connections of one event loop.

    What a connection receives is used up before the loop turns to the next, so they can share one.
    """
    return memoryview(bytearray(RECEIVED_AT_ONCE))


class Connection(asyncio.BufferedProtocol):
    """Carries bytes between a transport and a provider."""

    def __init__(
        self,
        provider: UpperLayerProvider,
        connection: socket.socket,
        buffer: memoryview,
        *,
        on_lost: Callable[[], None],
        on_quiet: Callable[[], None] | None = None,
    ) -> None:
        self.made = False
        self.congested = False
        self._provider = provider
        self._socket = connection
        self._buffer = buffer
        self._on_lost, self._on_quiet = on_lost, on_quiet
        self._transport: asyncio.Transport
        self._held = b""  # received, and not taken yet
        self._reading = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the association."""
        self._transport = cast(asyncio.Transport, transport)
        self.made = True
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self._provider.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where to receive."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was received."""
        if nbytes < RECEIVED_AT_ONCE and _QUICK_ACK is not None:
            # All there was: the peer may be waiting. The kernel forgets this flag, so it is set each time.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
        if self._held:
            self._held += self._buffer[:nbytes]
        else:
            self._pass_on(self._buffer[:nbytes])
            self._offer()

    def eof_received(self) -> bool:
        """Close: a peer that sends no more can do nothing more, not even release."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """End the association, however it stands."""
        self._held = b""
        self._provider.lost()
        self._on_lost()

    def pause_writing(self) -> None:
        """The peer does not read."""
        self.congested = True

    def resume_writing(self) -> None:
        """The peer has read."""
        self.congested = False
        self.read_on()

    def send(self, data: bytes) -> None:
        """Send at once what the peer takes, the rest later."""
        self._transport.write(data)

    def read_on(self) -> None:
        """Pass on what was held back, and receive again when all of it was taken."""
        if self._reading:
            return
        if self._held:
            held, self._held = self._held, b""
            self._pass_on(memoryview(held))
            if not self._held:
                self._transport.resume_reading()
        self._offer()

    def lend(self) -> int:
        """Receive and send nothing until it is taken back; return the socket's descriptor."""
        self._transport.pause_reading()
        return self._socket.fileno()

    def take_back(self, held: bytes, unsent: bytes, closed: int | None) -> None:
        """Go on with what was received and not used, and sent in part; `closed` by the peer (0), or by an error."""
        if unsent:
            self.send(unsent)
        if held:
            self._pass_on(memoryview(held))
        if closed is None:
            if not self._held:
                self._transport.resume_reading()
        elif closed:
            self._transport.abort()
        else:
            self._transport.close()

    def close(self) -> None:
        """Close once all is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once; before there is a connection, nothing is closed."""
        if self.made:
            self._transport.abort()

    def _offer(self) -> None:
        """Tell that nothing is in hand, whichever way."""
        if self._on_quiet is not None and not self._held and not self._transport.get_write_buffer_size():
            self._on_quiet()

    def _pass_on(self, data: memoryview) -> None:
        self._reading = True
        taken = self._provider.received(data)
        self._reading = False
        if taken < len(data) and self._provider.state is not State.Sta1:
            self._held = bytes(data[taken:])
            self._transport.pause_reading()
