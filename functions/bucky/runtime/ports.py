"""TCP ports for servers on this host."""

import fcntl
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_HOST = "127.0.0.1"
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST = 20_000, 65_535
# What Linux has when nothing was set (the macOS range is above it).
_OUTGOING_BY_DEFAULT = "32768 60999"


def servers_ports(outgoing: str) -> list[int]:
    """Return the ports that suit a server: those the system gives to no outgoing connection.

    `outgoing` is the range it does give, as "lowest highest". All of them when it leaves none.
    """
    first, last = (int(port) for port in outgoing.split())
    every = range(_LOWEST, _HIGHEST + 1)
    return [port for port in every if not first <= port <= last] or list(every)


def is_free(port: int) -> bool:
    """Say whether a server could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port nobody listens on just now, and that no process of this user was given lately.

    A port that the system chose could be taken by anyone's outgoing connection before its server binds it; one that
    two processes found free at the same time, by the other's server. Raise `OSError` when none is free.
    """
    ports = servers_ports(_OUTGOING.read_text() if _OUTGOING.exists() else _OUTGOING_BY_DEFAULT)
    with _counter() as counter:
        said = counter.read()
        last = int(said) if said.isdigit() else secrets.randbelow(len(ports))
        for turn in range(last + 1, last + 1 + len(ports)):
            port = ports[turn % len(ports)]
            if is_free(port):
                counter.seek(0)
                counter.truncate()
                counter.write(str(turn % len(ports)).encode())
                return port
    raise OSError(f"each of {len(ports)} ports has a server that listens on it")


@contextmanager
def _counter() -> Iterator[BinaryIO]:
    """Open, for one process at a time, the file that says whose turn was the last."""
    path = Path(tempfile.gettempdir()) / f"bucky-ports-{os.getuid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
