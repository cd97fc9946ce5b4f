"""Runs a server in a network of its own, and lets it be reached from outside through sockets that are files.

    unshare --net sh -c 'ip link set lo up && exec python relay_alone.py FILE=PORT … -- SERVER ARGUMENTS…'

Says "ready" when the server listens on every port; ends it when its own standard input ends.
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until there are no more, and say so on the other side."""
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, port: int) -> None:
    """Connect each caller with the server's port."""
    while True:
        caller, _ = listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", port))
        except OSError:
            caller.close()
            continue
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for ends in ((caller, server), (server, caller)):
            threading.Thread(target=pump, args=ends, daemon=True).start()


def listening(port: int) -> bool:
    """Return whether the server takes connections."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def main() -> None:
    """Run until the standard input ends or the server does."""
    split = sys.argv.index("--")
    ways = [(file, int(port)) for file, _, port in (word.rpartition("=") for word in sys.argv[1:split])]
    server = subprocess.Popen(sys.argv[split + 1 :], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    while not all(listening(port) for _file, port in ways):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        time.sleep(0.02)
    for file, port in ways:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(file)
        listener.listen(64)
        threading.Thread(target=serve, args=(listener, port), daemon=True).start()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.buffer.read()
    server.terminate()
    server.wait(10)


if __name__ == "__main__":
    main()
