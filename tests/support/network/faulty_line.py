"""A TCP line between a client and a server, to which everything can happen that happens to lines."""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.support.network.accepting import accept_each, shut, stop_accepting

_RESET = struct.pack("ii", 1, 0)


class _Connection:
    """One client's connection; a dead one is open, and nothing comes through it any more."""

    def __init__(self, client: socket.socket, server: socket.socket | None) -> None:
        self.client, self.server = client, server
        self.dead = server is None
        self.ended = threading.Event()
        self._to_client = threading.Lock()

    def carry(self) -> None:
        """Carry bytes both ways until an end closes, or for ever."""
        if self.server is not None:
            back = threading.Thread(target=self._pump, args=(self.server, self.client), daemon=True)
            back.start()
            self._pump(self.client, self.server)
            back.join()
        else:
            self.ended.wait()

    def inject(self, piece: bytes) -> None:
        """Say something to the client in the server's name."""
        with self._to_client, contextlib.suppress(OSError):
            self.client.sendall(piece)

    def cut(self, *, reset: bool) -> None:
        """End it, by a reset or as a server that closes."""
        self.ended.set()
        if reset:
            with contextlib.suppress(OSError):
                self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self.client.close()
        shut(*(end for end in (self.client, self.server) if end is not None))

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                if self.dead:
                    self.ended.wait()
                    return
                with self._to_client if sink is self.client else contextlib.nullcontext():
                    sink.sendall(piece)
        if not self.dead:
            shut(source, sink)


class FaultyLine:
    """Listens at `port` while its `with` block lasts; `to` is the port behind it, which may be changed."""

    def __init__(self, to: int) -> None:
        self.to = to
        self._silent = False
        self._refusing = False
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        accept_each(self._listener, self._serve)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        stop_accepting(self._listener)
        self.cut()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def inject(self, piece: bytes) -> None:
        """Say something to every client in the server's name."""
        for connection in list(self._connections):
            connection.inject(piece)

    def cut(self, *, reset: bool = False) -> None:
        """End every connection; new ones go through."""
        for connection in list(self._connections):
            connection.cut(reset=reset)

    def silence(self) -> None:
        """Let nothing through any more, without a word to anybody, on old connections and new ones."""
        self._silent = True
        for connection in list(self._connections):
            connection.dead = True

    def refuse(self) -> None:
        """End every connection, old or new."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """Let new connections through; those that were silenced stay so."""
        self._silent = self._refusing = False

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._refusing:
                return
            server = None
            if not self._silent:
                try:
                    server = socket.create_connection(("127.0.0.1", self.to), timeout=60)
                except OSError:
                    return
                server.settimeout(None)
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server)
            self._connections.add(connection)
            try:
                connection.carry()
            finally:
                self._connections.discard(connection)
                if server is not None:
                    server.close()
