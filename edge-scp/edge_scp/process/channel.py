"""Messages between the edge's parent and one of its children, and connections that go with them.

A message is a small JSON object in one packet of a Unix socket; the kernel carries descriptors beside it.
It keeps some 280 of them that are not read yet, and the sender keeps the rest: as many as there are connections.
Whichever end goes away, the other is told at once.
"""

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
# A metrics page is the longest, some ten thousand bytes.
_LONGEST = 128 * 1024


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected ends: for the parent, and for a child to inherit."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end, in the running event loop."""

    def __init__(
        self,
        end: socket.socket,
        received: Callable[[Message, socket.socket | None], None],
        lost: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._end: socket.socket | None = end
        self._received, self._lost = received, lost
        self._unsent: deque[tuple[bytes, socket.socket | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._readable, end)

    @property
    def behind(self) -> bool:
        """Tell whether messages wait because the other end does not read."""
        return bool(self._unsent)

    def send(self, message: Message, connection: socket.socket | None = None) -> bool:
        """Send, now or when there is room; return False when the other end is gone. Takes the connection over."""
        if self._end is None:
            return False
        data = json.dumps(message).encode()
        try:
            if not self._unsent and _sent(self._end, data, connection):
                return True
        except ConnectionError:
            return False
        if not self._unsent:
            self._loop.add_writer(self._end, self._writable, self._end)
        self._unsent.append((data, socket.socket(fileno=connection.detach()) if connection is not None else None))
        return True

    def close(self) -> None:
        """Close this end, and every connection that waits."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()
        for _, connection in self._unsent:
            if connection is not None:
                connection.close()
        self._unsent.clear()

    def _writable(self, end: socket.socket) -> None:
        # When the other end is gone, that is read as well.
        with contextlib.suppress(ConnectionError):
            while self._unsent and _sent(end, *self._unsent[0]):
                self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(end)

    def _readable(self, end: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(end, _LONGEST, 1)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            data, descriptors = b"", []
        connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        if data:
            self._received(json.loads(data), connections[0] if connections else None)
            return
        with contextlib.suppress(OSError):
            self.close()
        self._lost()


def _sent(end: socket.socket, data: bytes, connection: socket.socket | None) -> bool:
    """Send one packet; return False when there is no room, raise `ConnectionError` when the other end is gone."""
    try:
        socket.send_fds(end, [data], [] if connection is None else [connection.fileno()])
    except ConnectionError:
        raise
    except OSError:
        # Too much is unread, or too many descriptors are under way (ETOOMANYREFS).
        return False
    if connection is not None:
        connection.close()
    return True
