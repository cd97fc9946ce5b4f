"""What servers and proxies of tests have in common: a listener, and a thread for each connection."""

import contextlib
import socket
import threading
from collections.abc import Callable


def accept_each(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection in a thread of its own, until `stop_accepting`."""

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def stop_accepting(listener: socket.socket) -> None:
    """Listen no longer; what is open stays open."""
    shut(listener)
    listener.close()


def shut(*ends: socket.socket) -> None:
    """End what is said on these, in both directions; whoever waits there goes on."""
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
