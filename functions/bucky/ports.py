"""TCP ports for servers on this host."""

import itertools
import secrets
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

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
    """Return a port nobody listens on just now, another at each call.

    A port that the system chose could be taken by anyone's outgoing connection before its server binds it.
    """
    return next(port for port in _turns() if is_free(port))


@cache
def _turns() -> Iterator[int]:
    outgoing = _OUTGOING.read_text() if _OUTGOING.exists() else _OUTGOING_BY_DEFAULT
    ports = servers_ports(outgoing)
    start = secrets.randbelow(len(ports))  # processes that choose side by side begin apart
    return itertools.cycle(ports[start:] + ports[:start])
