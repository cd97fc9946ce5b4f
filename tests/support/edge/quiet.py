"""When a receiver has said all that it is going to say: told by what it has yet to do, not by how long it was silent.

A busy machine makes an answer late. Waiting for silence would then end a turn before its answer, and two receivers that
agree would seem not to.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Iterable
from concurrent.futures import Future

from edge_scp.association.acceptor import Acceptor
from edge_scp.association.boundaries import Phase
from edge_scp.association.connection import Connection
from edge_scp.association.service_user import AcceptedAssociation
from tests.support.waiting import PATIENCE

# linux/sockios.h: bytes of a TCP socket that were written and not sent yet.
_SIOCOUTQNSD = 0x894B


def until_quiet(loop: asyncio.AbstractEventLoop, acceptors: Iterable[Acceptor], peer: socket.socket) -> None:
    """Return once the receiver in a loop has used up all that a peer has sent, and has answered it."""
    acceptors = tuple(acceptors)
    deadline = time.monotonic() + PATIENCE
    while not _looked(loop, acceptors, peer).result(PATIENCE):
        assert time.monotonic() < deadline, "the receiver is still busy"
        time.sleep(0.0005)


def _looked(loop: asyncio.AbstractEventLoop, acceptors: tuple[Acceptor, ...], peer: socket.socket) -> "Future[bool]":
    """Look from within the loop, as a timer does: after all that arrived in the same turn was seen to."""
    seen: Future[bool] = Future()

    def look() -> None:
        try:
            seen.set_result(_is_quiet(acceptors, peer))
        except BaseException as error:
            seen.set_exception(error)
            raise

    loop.call_soon_threadsafe(lambda: loop.call_later(0, look))
    return seen


def _is_quiet(acceptors: tuple[Acceptor, ...], peer: socket.socket) -> bool:
    served = [each for acceptor in acceptors for each in acceptor._open.items()]
    # What was written last can no longer be sent to a receiver that has closed.
    sent = not served or not _bytes(peer, _SIOCOUTQNSD)
    return sent and not any(_has_work(connection, association) for connection, association in served)


def _has_work(connection: Connection, association: AcceptedAssociation) -> bool:
    transport, session = connection._transport, association._ride
    if transport.is_closing() or transport.get_write_buffer_size() or _bytes(connection._socket, termios.FIONREAD):
        return True
    return association.busy or (session is not None and session.standing.phase is Phase.ANSWERING)


def _bytes(connection: socket.socket, what: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connection, what, bytes(4)))
    return int(count)
