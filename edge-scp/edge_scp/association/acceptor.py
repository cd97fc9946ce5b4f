"""The associations of one listener in one process: sockets that were accepted elsewhere become associations here."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Protocol, cast

from bucky.text.listeners import Listener
from edge_scp.association.admission import Rejection
from edge_scp.association.connection import Connection, receive_buffer
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.negotiation import Negotiator
from edge_scp.association.plain_transport import PlainTransport
from edge_scp.association.service_user import AcceptedAssociation, AssociationMetrics, Service
from edge_scp.association.sink import CommitmentSink, Sink
from edge_scp.association.storage_syntaxes import Syntaxes
from edge_scp.association.timeouts import TimeoutSweep
from edge_scp.association.tls import Alerting, ReloadedTls

# For peers to close after the last word, and for close_notify to be answered.
LINGER_SECONDS = 1.0
TLS_SHUTDOWN_SECONDS = 2.0


class NativeServer(Protocol):
    """Who may serve an association for some time: `edge_scp.receive.fast_path`."""

    def offer(self, association: AcceptedAssociation, connection: Connection) -> None:
        """Take a connection that is between two messages, if it is a usual one."""


def no_obstacle() -> Rejection | None:
    """Accept every association that may be."""
    return None


class ConnectionState(Enum):
    """How a connection stands, for who counts them."""

    ASSOCIATED = "it has an association"
    OVER = "its association is over, and the peer has not closed it"
    CLOSED = "closed"


# Told how a connection stands, and whether an instance was stored over it.
Told = Callable[[ConnectionState, bool], None]


class Acceptor:
    """Serves one listener's connections in the running loop.

    `obstacle` says why no association can be accepted now (too many, or the process drains), or None.
    `buffer` and `fast_path` may be shared by all acceptors of a loop.
    """

    def __init__(
        self,
        listener: Listener,
        limits: AssociationLimits,
        syntaxes: Syntaxes,
        sink: Sink,
        metrics: AssociationMetrics,
        *,
        obstacle: Callable[[], Rejection | None] = no_obstacle,
        buffer: memoryview | None = None,
        fast_path: NativeServer | None = None,
        reports: CommitmentSink | None = None,
    ) -> None:
        self._fast_path = fast_path if listener.tls is None else None
        self._loop = asyncio.get_running_loop()
        self._service = Service(
            listener=listener,
            limits=limits,
            negotiator=Negotiator(syntaxes, limits.max_pdu),
            sink=sink,
            metrics=metrics,
            obstacle=obstacle,
            clock=self._loop.time,
            reports=reports,
        )
        self._buffer = receive_buffer() if buffer is None else buffer
        self._certificates = ReloadedTls(listener.tls) if listener.tls else None
        self._sweep = TimeoutSweep(self._loop, limits.sweep_seconds)
        self._open: dict[Connection, AcceptedAssociation] = {}
        self._emptied = asyncio.Event()
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def associations(self) -> list[AcceptedAssociation]:
        """Return the associations that were accepted and are not over."""
        return [association for association in self._open.values() if association.established]

    @property
    def connections(self) -> int:
        """Return how many connections are open, whatever has become of them."""
        return len(self._open)

    def serve(self, accepted: socket.socket, address: str, told: Told) -> Callable[[], None]:
        """Take over a connected socket; return what closes it unless it has an association then.

        `told` hears how it stands, each time that changes; that it is closed comes last, and once.
        """

        def stands(*, associated: bool) -> None:
            told(ConnectionState.ASSOCIATED if associated else ConnectionState.OVER, association.stored)

        association = AcceptedAssociation(self._service, address, stands)

        def closed() -> None:
            if self._open.pop(connection, None) is not None:
                self._sweep.remove(association.tick)
                association.disconnected()
                told(ConnectionState.CLOSED, association.stored)
            if not self._open:
                self._emptied.set()

        def quiet() -> None:
            if self._fast_path is not None:
                self._fast_path.offer(association, connection)

        connection = Connection(association.provider, accepted, self._buffer, on_lost=closed, on_quiet=quiet)
        self._open[connection] = association
        self._sweep.add(association.tick)
        if self._certificates is None:
            PlainTransport(self._loop, accepted, connection)
            return partial(_evict, association, connection, None)
        shaking_hands = self._shake_hands(connection, association, accepted, self._certificates.context(), closed)
        connecting = self._loop.create_task(shaking_hands)
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        return partial(_evict, association, connection, connecting)

    async def drain(self, seconds: float) -> bool:
        """Let associations end by themselves for a time, then end them; tell whether none had to be.

        Of those left, the idle ones are asked to release and the others aborted.
        """
        for connecting in tuple(self._connecting):
            connecting.cancel()
        for connection, association in tuple(self._open.items()):
            if not association.established:
                connection.abort()
        await self._all_closed(seconds)
        late = self.associations
        for association in late:
            if not association.release():
                association.abort("the edge stops")
        await self._all_closed(LINGER_SECONDS)
        for connection in tuple(self._open):
            connection.abort()
        return not late

    async def _shake_hands(
        self,
        connection: Connection,
        association: AcceptedAssociation,
        accepted: socket.socket,
        context: ssl.SSLContext,
        closed: Callable[[], None],
    ) -> None:
        accepted.setblocking(False)
        try:
            # asyncio sets TCP_NODELAY.
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=cast(ssl.SSLContext, Alerting(context, accepted)),
                ssl_handshake_timeout=self._service.limits.artim_seconds,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except OSError as error:
            # Most are the handshake's: ssl.SSLError, and ConnectionAbortedError when it takes too long.
            association.disconnected(str(error))
        finally:
            if not connection.made:
                closed()

    async def _all_closed(self, seconds: float) -> None:
        if self._open:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)


def _evict(association: AcceptedAssociation, connection: Connection, connecting: asyncio.Task[None] | None) -> None:
    """Close a connection that has no association, be it in the middle of its TLS handshake."""
    if association.established:
        return
    association.disconnected("closed for another connection, which needed its place")
    if connecting is not None and not connection.made:
        connecting.cancel()
    connection.abort()
