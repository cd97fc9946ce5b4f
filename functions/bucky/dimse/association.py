"""One association requested by us, over one blocking socket: C-STORE requests, one at a time.

No thread and no queue: memory is one fragment, and every wait has an end. Whatever goes wrong on the
way is `DestinationUnavailable`, in words; what the peer answers is returned as it is.
"""

import contextlib
import fcntl
import io
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Sequence
from types import TracebackType
from typing import BinaryIO, NoReturn, Self

from bucky.dimse import messages
from bucky.dimse.messages import Acceptance, Context, StoreResponse
from bucky.dimse.peer import Peer
from bucky.errors import AnswerLost, DestinationUnavailable
from bucky.log import get_logger
from bucky.runtime.tls import client_context, in_words

log = get_logger("scu")

MAX_PDU_RECEIVED = 1024 * 1024
MAX_COMMAND = 64 * 1024
REJECTED_RETRY_SECONDS = 30.0
RELEASE_SECONDS = 5.0
LOOK_SECONDS = 0.1
"""How often to look whether data is still leaving, while there is no answer."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""Only Linux has it."""


class RequestedAssociation:
    """An open association; leave its `with` block to release it, or to abort it on an error."""

    def __init__(self, peer: Peer, contexts: Sequence[Context]) -> None:
        """Connect and negotiate at most 128 contexts."""
        self._peer = peer
        self._message_id = 0
        self._open = False
        try:
            request = messages.associate_request(peer, contexts)
        except ValueError as error:
            raise DestinationUnavailable(f"{peer} cannot be called: {error}", REJECTED_RETRY_SECONDS) from error
        self._socket = _connected(peer)
        try:
            self._acceptance = self._negotiated(request, contexts)
        except ValueError as error:
            self._lost(f"{peer} answered the association request wrongly: {error}", error)
        except BaseException:
            self.abort()
            raise
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None and self._open:
            self.release()
        else:
            self.abort()

    def context_id(self, context: Context) -> int | None:
        """Return the id of an accepted presentation context, or None when the peer refused it."""
        return self._acceptance.accepted.get(context)

    def refusal(self, context: Context) -> int:
        """Return why the peer refused a context (PS3.8 Table 9-18), or -1 when it did not say."""
        return self._acceptance.refused.get(context, -1)

    def store(self, context_id: int, sop_class: str, sop_instance: str, content: BinaryIO) -> StoreResponse:
        """Send one instance, its data set being the stream's bytes to the end, and return the answer.

        Raises `AnswerLost` when it was sent whole.
        """
        self._message_id = self._message_id % 0xFFFF + 1
        command = io.BytesIO(messages.store_request(self._message_id, sop_class, sop_instance))
        max_pdu = self._acceptance.max_pdu
        for pdu in messages.data_pdus(context_id, command, max_pdu, command=True):
            self._send(pdu)
        try:
            for pdu in messages.data_pdus(context_id, content, max_pdu):
                self._send(pdu)
        except OSError as error:  # only the stream raises it: the socket's are translated
            self._lost("the data set could not be read to its end", error)
        self._see_off()
        try:
            response = messages.store_response(self._command())
        except DestinationUnavailable as error:
            raise AnswerLost(str(error)) from error
        except ValueError as error:
            self._lost(f"{self._peer} answered wrongly: {error}", error)
        if response.message_id != self._message_id:
            self._lost(f"{self._peer} answered another message than the one it was sent")
        return response

    def release(self) -> None:
        """Release in good order; a peer that does not answer in five seconds is left at once."""
        self._open = False
        deadline = time.monotonic() + min(RELEASE_SECONDS, self._peer.timeout)
        try:
            self._send(messages.RELEASE_REQUEST)
            while self._receive(deadline)[0] == messages.DATA:
                pass
        except DestinationUnavailable:
            pass  # every instance already has its answer
        finally:
            self._socket.close()

    def abort(self) -> None:
        """Tell the peer, if it still listens, and close."""
        self._open = False
        try:
            self._socket.settimeout(1.0)
            self._socket.sendall(messages.ABORT_REQUEST)
        except OSError:
            pass
        finally:
            self._socket.close()

    def _negotiated(self, request: bytes, contexts: Sequence[Context]) -> Acceptance:
        self._send(request)
        pdu = self._receive(time.monotonic() + self._peer.timeout)
        if pdu[0] == messages.ASSOCIATE_RJ:
            reason = messages.rejection(pdu)
            self._socket.close()
            raise DestinationUnavailable(f"{self._peer} rejected the association ({reason})", REJECTED_RETRY_SECONDS)
        if pdu[0] != messages.ASSOCIATE_AC:
            self._unexpected(pdu)
        acceptance = messages.acceptance(pdu, contexts)
        if acceptance.oddities:
            log.warning("association.odd_answer", peer=str(self._peer), oddities=acceptance.oddities)
        return acceptance

    def _command(self) -> bytes:
        """Receive one command set."""
        deadline = time.monotonic() + self._peer.timeout
        command = bytearray()
        while True:
            pdu = self._receive(deadline)
            if pdu[0] != messages.DATA:
                self._unexpected(pdu)
            for fragment, last in messages.command_fragments(pdu):
                command += fragment
                if last:
                    return bytes(command)
            if len(command) > MAX_COMMAND:
                raise ValueError("its command set has no end")

    def _send(self, pdu: bytes) -> None:
        left = memoryview(pdu)
        try:
            self._socket.settimeout(self._peer.timeout)
            # Not `sendall`: its timeout is for the whole, which over a slow line takes its time.
            while left:
                left = left[self._socket.send(left) :]
        except TimeoutError as error:
            self._lost(f"{self._peer} took no data for {self._peer.timeout:g} s", error)
        except OSError as error:
            self._lost(f"{self._peer} closed the connection while it was sent to", error)

    def _see_off(self) -> None:
        """Wait while what was sent is still leaving: over a slow line that ends long after the last write."""
        left, moved_at = self._under_way(), time.monotonic()
        answers = select.poll()
        answers.register(self._socket, select.POLLIN)
        self._acknowledge_at_once()
        while left and not answers.poll(LOOK_SECONDS * 1000):
            now, still = time.monotonic(), self._under_way()
            if still < left:
                left, moved_at = still, now
            elif now - moved_at > self._peer.timeout:
                self._lost(f"{self._peer} took no data for {self._peer.timeout:g} s")

    def _under_way(self) -> int:
        """Return how many bytes the peer's system has not acknowledged yet, 0 where nobody knows."""
        try:
            return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def _receive(self, deadline: float) -> bytes:
        """Receive one PDU before the deadline (`time.monotonic()` seconds)."""
        header = self._exactly(6, deadline)
        (length,) = struct.unpack_from(">I", header, 2)
        if length > MAX_PDU_RECEIVED:
            self._lost(f"{self._peer} sent something that is not DICOM")
        return header + self._exactly(length, deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < size:
            try:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                self._acknowledge_at_once()
                chunk = self._socket.recv(size - len(received))
            except TimeoutError as error:
                self._lost(f"{self._peer} did not answer within {self._peer.timeout:g} s", error)
            except OSError as error:
                self._lost(f"{self._peer} broke the connection", error)
            if not chunk:
                self._lost(f"{self._peer} closed the connection without an answer")
            received += chunk
        return bytes(received)

    def _acknowledge_at_once(self) -> None:
        """Have the next bytes acknowledged when they come, and not 40 ms later; Linux forgets it each time.

        A peer that leaves Nagle on and writes an answer in two pieces (DCMTK does) waits for that with the second.
        """
        if _QUICKACK is not None:
            with contextlib.suppress(OSError):  # a connection that broke says so when it is read
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _unexpected(self, pdu: bytes) -> NoReturn:
        if pdu[0] == messages.ABORT:
            self._lost(f"{self._peer} aborted the association")
        if pdu[0] == messages.RELEASE_RQ:
            self._send(messages.RELEASE_RESPONSE)
            self._lost(f"{self._peer} released the association before it had answered")
        self._lost(f"{self._peer} sent a PDU of type {pdu[0]:#04x}, which has no place here")

    def _lost(self, reason: str, cause: BaseException | None = None) -> NoReturn:
        self.abort()
        raise DestinationUnavailable(reason) from cause


def _connected(peer: Peer) -> socket.socket:
    context = client_context(peer.tls_ca_file, peer.tls_identity_file) if peer.tls_ca_file else None
    try:
        connection = socket.create_connection((peer.host, peer.port), timeout=peer.timeout)
    except (OSError, UnicodeError) as error:
        raise DestinationUnavailable(f"{peer} cannot be reached: {in_words(error)}") from error
    try:
        # A command and its data set are separate writes: Nagle would hold the second one back.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return context.wrap_socket(connection, server_hostname=peer.host) if context else connection
    except OSError as error:
        connection.close()
        raise DestinationUnavailable(f"{peer} and we could not agree on TLS: {in_words(error)}") from error
