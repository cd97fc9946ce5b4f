"""Messages between the edge's parent and one of its children, and connections that go with them.

A message is a small JSON object in one packet of a Unix socket; the kernel carries descriptors beside it.
Whichever end goes away, the other is told at once.
"""

import asyncio
import contextlib
import json
import socket
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
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._readable, end)

    def send(self, message: Message, connection: socket.socket | None = None) -> bool:
        """Send; return False when the other end is gone or has too much unread."""
        if self._end is None:
            return False
        data = json.dumps(message).encode()
        try:
            if connection is None:
                self._end.send(data)
            else:
                socket.send_fds(self._end, [data], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close this end."""
        end, self._end = self._end, None
        if end is not None:
            self._loop.remove_reader(end)
            end.close()

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
