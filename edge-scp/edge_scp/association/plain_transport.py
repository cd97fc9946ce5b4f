"""A TCP connection in an asyncio loop: what asyncio's own transport does for `Connection`, and no more.

asyncio's serves every protocol; each receive through it costs as much again as all that a data set needs.
"""

import asyncio
import socket

from bucky.log import get_logger

log = get_logger("edge")


class PlainTransport(asyncio.Transport):
    """Carries bytes between a connected socket and a protocol; used from the loop's thread only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: socket.socket, protocol: asyncio.BufferedProtocol
    ) -> None:
        super().__init__()
        self._loop, self._socket, self._protocol = loop, connection, protocol
        self._unsent = bytearray()
        self._most_unsent = 0
        self._reading = self._closing = False
        self._lost = False
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        protocol.connection_made(self)
        self.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:  # noqa: ARG002
        """Tell the protocol to pause when more than `high` bytes are unsent, and to go on when none is."""
        self._most_unsent = high or 0

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are unsent."""
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send now what the peer takes, the rest when it reads."""
        if self._lost:
            return
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._lose(error)
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(self._socket, self._writable)
        self._unsent += data
        if len(self._unsent) > self._most_unsent:
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        """Tell whether it is closed or about to be."""
        return self._closing

    def pause_reading(self) -> None:
        """Receive nothing for now."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume_reading(self) -> None:
        """Receive again."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Close once all is sent."""
        if not self._closing:
            self.pause_reading()
            self._closing = True
            if not self._unsent:
                self._lose(None)

    def abort(self) -> None:
        """Close at once."""
        self._lose(None)

    def _readable(self) -> None:
        try:
            received = self._socket.recv_into(self._protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not received:
            self.close()
            return
        try:
            self._protocol.buffer_updated(received)
        except Exception as error:
            # Unforeseen, so what the peer would be told next is anybody's guess.
            log.exception("connection.failed")
            self._lose(error)

    def _writable(self) -> None:
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if not self._unsent:
            self._loop.remove_writer(self._socket)
            if self._closing:
                self._lose(None)
            else:
                self._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        """Stop, and tell the protocol in the loop's next turn."""
        if not self._lost:
            self._lost = True
            self.pause_reading()
            self._closing = True
            if self._unsent:
                self._loop.remove_writer(self._socket)
                self._unsent.clear()
            self._loop.call_soon(self._gone, error)

    def _gone(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()
