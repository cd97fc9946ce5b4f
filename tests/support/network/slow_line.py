"""A slow line to a port of loopback: what a client sends passes at so many bytes a second, and little waits in it."""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.support.network.accepting import accept_each, shut, stop_accepting

PIECE_BYTES = 1024


class SlowLine:
    """Listens at `port` while its `with` block lasts, and connects each caller with another port."""

    def __init__(self, to: int, bytes_per_second: float) -> None:
        self._to, self._bytes_per_second = to, bytes_per_second
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Connections have it from their listener.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE_BYTES)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        accept_each(self._listener, self._serve)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        stop_accepting(self._listener)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            back = threading.Thread(target=_carry, args=(server, client, 0.0), daemon=True)
            back.start()
            _carry(client, server, 1 / self._bytes_per_second)
            back.join()


def _carry(source: socket.socket, sink: socket.socket, seconds_per_byte: float) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE_BYTES):
            time.sleep(len(piece) * seconds_per_byte)
            sink.sendall(piece)
    shut(source, sink)
