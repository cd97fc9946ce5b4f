"""The upper layer, on pynetdicom's: the only file that knows how bytes become requests.

Decisions are elsewhere: `admission` on associations, `receiver` on instances. The acceptor's private
names used here are those of pynetdicom 3.0.4, to which the package is pinned.
"""

import contextlib
import secrets
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.transport import (
    AddressInformation,
    AssociationSocket,
    RequestHandler,
    ThreadedAssociationServer,
)

from bucky.log import get_logger
from bucky.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from bucky.settings import Listener, Settings
from bucky.trace import new_traceparent
from edge_scp.admission import Rejection, network_allowed, refusal
from edge_scp.metrics import Metrics
from edge_scp.receiver import Receiver, StoreRequest
from edge_scp.reception import Caller
from edge_scp.storage_syntaxes import Syntaxes
from edge_scp.store_service import StoreCommand
from edge_scp.tls import server_context

log = get_logger("edge")

ACSE_SECONDS = 15.0
# No A-ASSOCIATE-RQ of 128 contexts comes near this; a P-DATA PDU may not pass the length we advertise.
MAX_ASSOCIATE_BYTES = 1024 * 1024
# Connections beyond the limit still get an A-ASSOCIATE-RJ that says why, up to this many.
REJECTED_AT_ONCE = 32


class Acceptor(ThreadedAssociationServer):
    """Accepts connections; each becomes an association in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, listener: Listener, settings: Settings, receiver: Receiver, metrics: Metrics) -> None:
        self.listener = listener
        self.receiver = receiver
        self.metrics = metrics
        self.max_associations = settings.edge_max_associations
        self.pdu_limit = max(settings.edge_max_pdu, MAX_ASSOCIATE_BYTES)
        self.io_seconds = settings.edge_idle_seconds
        self._syntaxes = Syntaxes(settings)
        self._tls = server_context(listener.tls) if listener.tls else None
        # No contexts here: what is supported is worked out for each request, instead of copied for each.
        super().__init__(
            _entity(listener, settings),
            (listener.host, listener.port),
            listener.aet,
            [],
            request_handler=_ConnectionHandler,
        )

    def supported(self, proposed: Iterable[PresentationContext]) -> list[PresentationContext]:
        """Return what is supported of a proposal, in the shape pynetdicom negotiates with."""
        pairs = ((str(context.abstract_syntax), [str(uid) for uid in context.transfer_syntax]) for context in proposed)
        return [build_context(abstract, uids) for abstract, uids in self._syntaxes.negotiable(pairs).items()]

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; the TLS handshake is left to its thread, so that it delays nobody."""
        connection, address = cast(socket.socket, self.socket).accept()
        connection.settimeout(self.io_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def secured(self, connection: socket.socket) -> socket.socket:
        """Return the connection, inside TLS where the listener has it."""
        if self._tls is None:
            return connection
        connection.settimeout(ACSE_SECONDS)
        secured = self._tls.wrap_socket(connection, server_side=True)
        secured.settimeout(self.io_seconds)
        return secured

    def admitted(self) -> list["_Association"]:
        """Return the associations that were let in and are not over; the rest are mere connections."""
        associations = (cast(_Association, association) for association in self.active_associations)
        return [association for association in associations if association.caller is not None]

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's
        """Drop a connection when too many are open; those from networks not allowed fill a few at most."""
        limit = REJECTED_AT_ONCE
        if network_allowed(self.listener, client_address[0]):
            limit += self.max_associations
        room = len(self.active_associations) < limit
        if not room:
            self.metrics.association("dropped")
            log.warning("association.dropped", source_address=client_address[0], reason="too many connections")
        return room

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        """Log a connection that failed before it was an association, such as a failed TLS handshake."""
        self.metrics.association("failed")
        error = type(sys.exc_info()[1]).__name__
        log.warning("association.failed", source_address=client_address[0], error=error)

    def stop_accepting(self) -> None:
        """Leave `serve_forever` and close the listening socket."""
        BaseServer.shutdown(self)
        self.server_close()


class _ConnectionHandler(RequestHandler):
    """Makes an association of a connection."""

    server: Acceptor

    def handle(self) -> None:
        """Start the association; it runs in its own thread from here."""
        self.request = self.server.secured(self.request)
        super().handle()

    def _create_association(self) -> Association:
        association = _Association(self.ae, MODE_ACCEPTOR)
        association._server = self.server
        # pynetdicom finds its associations by this name.
        association.name = f"AcceptorThread@{association.id}"
        association.set_socket(_BoundedSocket(association, self.request, self.server))
        association.acceptor.maximum_length = self.ae.maximum_pdu_size
        association.acceptor.ae_title = self.server.ae_title
        association.acceptor.address_info = self.local
        association.acceptor.implementation_class_uid = self.ae.implementation_class_uid
        association.acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = self.remote
        association.bind(evt.EVT_REQUESTED, _on_requested)
        association.bind(evt.EVT_ESTABLISHED, _on_established)
        association.bind(evt.EVT_RELEASED, _on_ended, ["released"])
        association.bind(evt.EVT_ABORTED, _on_ended, ["aborted"])
        return association


class _Association(Association):
    """An association that hands C-STORE requests to the receiver, whatever their SOP class."""

    def __init__(self, entity: AE, mode: str) -> None:
        super().__init__(entity, mode)
        # A peer that hangs must not keep the process from ending.
        self.dul.daemon = True
        self.id = secrets.token_hex(8)
        self.caller: Caller | None = None
        self.started = time.monotonic()
        self.answers: Counter[str] = Counter()

    @property
    def edge(self) -> Acceptor:
        """Return the listener's server."""
        return cast(Acceptor, self._server)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        is_store = isinstance(msg, C_STORE) and msg.Status is None and msg.MessageID is not None
        if not is_store or context is None or self.caller is None or self._sent_release:
            super()._serve_request(msg, context_id)
            return
        command = StoreCommand(
            affected_sop_class_uid=str(msg.AffectedSOPClassUID or ""),
            affected_sop_instance_uid=str(msg.AffectedSOPInstanceUID or ""),
            abstract_syntax_uid=str(context.abstract_syntax),
            transfer_syntax_uid=str(context.transfer_syntax[0]),
        )
        data_set = msg.DataSet.getbuffer() if msg.DataSet is not None else memoryview(b"")
        answer = self.edge.receiver.receive(StoreRequest(command, self.caller, data_set))
        self.answers[answer.status.name.lower()] += 1
        response = C_STORE()
        response.MessageID = msg.MessageID
        response.MessageIDBeingRespondedTo = msg.MessageID
        response.AffectedSOPClassUID = msg.AffectedSOPClassUID
        response.AffectedSOPInstanceUID = msg.AffectedSOPInstanceUID
        response.Status = int(answer.status)
        if answer.error_comment:
            # Declared None in its class, set to text like its siblings.
            response.ErrorComment = answer.error_comment  # type: ignore[assignment]
        self.dimse.send_msg(response, context_id)


class _BoundedSocket(AssociationSocket):
    """Reads no PDU longer than it may be, and waits for a whole one no longer than it should."""

    def __init__(self, association: Association, connection: socket.socket, server: Acceptor) -> None:
        super().__init__(association, client_socket=connection)
        self._limit = server.pdu_limit
        self._seconds = server.io_seconds

    def recv(self, nr_bytes: int) -> bytearray:
        """Return that many bytes, or fewer when the peer closes; raise `OSError` past a limit."""
        if nr_bytes > self._limit:
            raise OSError("the PDU is longer than this listener takes")
        deadline = time.monotonic() + self._seconds
        received = bytearray(nr_bytes)
        view = memoryview(received)
        at = 0
        while at < nr_bytes:
            count = cast(socket.socket, self.socket).recv_into(view[at:])
            at += count
            if count == 0:
                break
            if at < nr_bytes and time.monotonic() > deadline:
                raise TimeoutError("the peer takes too long to send one PDU")
        return received[:at]

    def _shutdown_socket(self) -> None:
        """Close the connection, also when the peer was first and there is nothing left to shut down."""
        connection = cast(socket.socket, self.socket)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _entity(listener: Listener, settings: Settings) -> AE:
    entity = AE(ae_title=listener.aet)
    entity.maximum_pdu_size = settings.edge_max_pdu
    entity.maximum_associations = settings.edge_max_associations + REJECTED_AT_ONCE
    entity.network_timeout = settings.edge_idle_seconds
    entity.acse_timeout = min(ACSE_SECONDS, settings.edge_idle_seconds)
    entity.dimse_timeout = settings.edge_idle_seconds
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return entity


def _on_requested(event: evt.Event) -> None:
    """Admit or reject an A-ASSOCIATE-RQ; without `supported_contexts` nothing could be stored."""
    association = cast(_Association, event.assoc)
    edge = association.edge
    request = cast(A_ASSOCIATE, association.requestor.primitive)
    caller = Caller(
        association_id=association.id,
        calling_aet=request.calling_ae_title.strip(),
        called_aet=request.called_ae_title.strip(),
        source_address=cast(AddressInformation, association.requestor.address_info).address,
        traceparent=new_traceparent(),
    )
    rejection = refusal(
        edge.listener,
        address=caller.source_address,
        calling_aet=caller.calling_aet,
        called_aet=caller.called_aet,
        too_many=len(edge.admitted()) >= edge.max_associations,
    )
    if rejection is not None:
        _reject(association, caller, rejection)
        return
    association.caller = caller
    association.acceptor.supported_contexts = edge.supported(request.presentation_context_definition_list)


def _reject(association: _Association, caller: Caller, rejection: Rejection) -> None:
    association.edge.metrics.association("rejected")
    log.warning("association.rejected", reason=rejection.reason, **_fields(caller))
    association.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
    association.kill()


def _on_established(event: evt.Event) -> None:
    association = cast(_Association, event.assoc)
    association.edge.metrics.association("accepted")
    if association.caller is not None:
        log.info(
            "association.accepted",
            contexts=len(association.accepted_contexts),
            contexts_refused=len(association.rejected_contexts),
            **_fields(association.caller),
        )


def _on_ended(event: evt.Event, how: str) -> None:
    association = cast(_Association, event.assoc)
    association.edge.metrics.association(how)
    if association.caller is not None:
        log.info(
            f"association.{how}",
            duration_ms=round((time.monotonic() - association.started) * 1000),
            answers=dict(association.answers),
            **_fields(association.caller),
        )


def _fields(caller: Caller) -> dict[str, str]:
    return {
        "association_id": caller.association_id,
        "calling_aet": caller.calling_aet,
        "called_aet": caller.called_aet,
        "source_address": caller.source_address,
    }
