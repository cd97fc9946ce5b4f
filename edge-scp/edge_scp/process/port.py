"""The edge's DICOM ports: accepts connections, decides which are served, and hands them on."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

from bucky.errors import SettingsError
from bucky.log import get_logger
from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.process.connections import Connections, Handling

log = get_logger("edge")

_BACKLOG = 512
_ACCEPTED_AT_ONCE = 64
_PAUSE_SECONDS = 0.5


class Served(Protocol):
    """Who serves connections, by number, and closes those that give way."""

    def hand(self, number: int, connection: socket.socket, address: str, verdict: Handling) -> bool:
        """Pass a connection to who serves it; return False when there is nobody."""

    def evict(self, number: int) -> None:
        """Close a connection, unless it has an association by now."""


class Port:
    """One listener's port, in the running event loop."""

    def __init__(
        self,
        listener: Listener,
        settings: Settings,
        served: Served,
        refused: Callable[[str], None],
        numbers: Iterator[int],
    ) -> None:
        self.listener = listener
        self.connections = Connections(listener, settings)
        self._served, self._refused, self._numbers = served, refused, numbers
        self._loop = asyncio.get_running_loop()
        self._socket = _bound(listener)
        self.accepting = False

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return int(self._socket.getsockname()[1]) if self._socket.fileno() >= 0 else self.listener.port

    def start(self) -> None:
        """Accept connections from now on."""
        self.accepting = True
        self._loop.add_reader(self._socket, self._readable)

    def stop(self) -> None:
        """Accept no further connection."""
        self.accepting = False
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Too many open files, most likely: some will close.
                log.warning("listener.accept_failed", port=self.port, error=str(error))
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_PAUSE_SECONDS, self._resume)
                return
            with connection:
                self._decide(connection, address[0])

    def _resume(self) -> None:
        if self.accepting:
            self._loop.add_reader(self._socket, self._readable)

    def _decide(self, connection: socket.socket, address: str) -> None:
        verdict, evicted = self.connections.admission(address)
        if verdict is Handling.DROP:
            self._refused("too many connections")
            log.warning("connection.dropped", source_address=address, reason="too many connections")
            return
        if evicted is not None:
            self._refused("gave way")
            self.connections.evicted(evicted)
            self._served.evict(evicted)
        number = next(self._numbers)
        if self._served.hand(number, connection, address, verdict):
            self.connections.opened(number, address, verdict)
        else:
            self._refused("no receiver")
            log.error("connection.dropped", source_address=address, reason="no receiver is running")


def _bound(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    try:
        bound = socket.create_server((listener.host, listener.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"BUCKY_EDGE_LISTENERS: cannot listen on {listener.host}:{listener.port} "
            f"({error.strerror or error}); is another process using the port?"
        ) from error
    bound.setblocking(False)
    return bound
