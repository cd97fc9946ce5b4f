"""A proxy in front of a DICOM node that goes wrong as a test says: it answers itself, aborts, hangs, cuts, crawls.

It reads what passes, PDU by PDU, so it does what it does at an exact message, and knows what the sender was answered.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bucky.dimse.messages import ABORT_REQUEST, DATA
from tests.support.dimse.raw_peer import elements, us, values
from tests.support.network.accepting import accept_each, shut, stop_accepting

COMMAND, LAST = 0x01, 0x02
C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
PIECE_BYTES = 1024
"""What goes at once over a slow line."""


class Act(Enum):
    """What becomes of a message, where it is not an answer (a DIMSE status) in the node's place."""

    PASS = "pass"
    ABORT = "abort"
    HANG = "hang"
    CUT = "cut"


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request that came by; `number` counts them from 1."""

    number: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Answered:
    """What the sender was told about an instance."""

    sop_instance_uid: str
    status: int


class DimseProxy:
    """Listens on loopback and passes each association on to a node, `upstream` being the way there.

    `on_request` and `on_response` may be set at any time; `on_half` is what it waits for when it hangs in the middle of
    a data set. With `bytes_per_second` both directions of all associations share so much, and little more than that
    is on its way at once, as over a slow line. `requests` are those that came by, `answers` what went back.
    """

    def __init__(self, upstream: Callable[[], socket.socket]) -> None:
        self._upstream = upstream
        self._port = 0
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._counting = threading.Lock()
        self.requests: list[StoreRequest] = []
        self._line_free_at = 0.0
        self._released = threading.Event()
        self.bytes_per_second: float | None = None
        self.answers: list[Answered] = []
        self.behave()

    @property
    def port(self) -> int:
        """The port it listens on, the same each time it is opened."""
        return self._port

    @property
    def listening(self) -> bool:
        """Whether it is open."""
        return self._listener is not None

    def behave(self) -> None:
        """Pass everything on, as fast as can be."""
        self.on_request: Callable[[StoreRequest], Act | int] = lambda _request: Act.PASS
        self.on_response: Callable[[StoreRequest, int], Act | int] = lambda _request, status: status
        self.bytes_per_second = None
        self.on_half: Callable[[], None] = self._released_at_last
        self._released.set()
        self._released = threading.Event()

    def open(self) -> None:
        """Listen."""
        self._listener = socket.create_server(("127.0.0.1", self._port), backlog=64)
        self._port = int(self._listener.getsockname()[1])
        accept_each(self._listener, self._serve)

    def close(self) -> None:
        """Listen no longer, and end what is open."""
        listener, self._listener = self._listener, None
        if listener is not None:
            stop_accepting(listener)
        self._released.set()
        shut(*self._open)

    def crawl(self, bytes_per_second: float) -> None:
        """Become a slow line."""
        self.bytes_per_second = bytes_per_second
        if self._listener is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * PIECE_BYTES)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._upstream() as node:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open |= {client, node}
            try:
                _Conversation(self, client, node).run()
            finally:
                self._open -= {client, node}

    def _note(self, message_id: int, sop_class_uid: str, sop_instance_uid: str) -> StoreRequest:
        with self._counting:
            request = StoreRequest(len(self.requests) + 1, message_id, sop_class_uid, sop_instance_uid)
            self.requests.append(request)
            return request

    def _pace(self, count: int) -> None:
        """Wait until the line has carried so many bytes."""
        if self.bytes_per_second is None:
            return
        with self._counting:
            self._line_free_at = max(self._line_free_at, time.monotonic()) + count / self.bytes_per_second
            until = self._line_free_at
        time.sleep(max(0.0, until - time.monotonic()))

    def _released_at_last(self) -> None:
        self._released.wait()


class _Conversation:
    """One association, seen from between the two."""

    def __init__(self, proxy: DimseProxy, client: socket.socket, node: socket.socket) -> None:
        self._proxy, self._client, self._node = proxy, client, node
        self._request: StoreRequest | None = None
        self._instead: int | None = None
        self._hang_next = False

    def run(self) -> None:
        """Pass on what comes until one of the two ends it, or the proxy does."""
        while True:
            ready, _, _ = select.select([self._node, self._client], [], [])
            for source in ready:
                pdu = self._receive(source)
                if not pdu or not (self._from_node(pdu) if source is self._node else self._from_client(pdu)):
                    return

    def _from_client(self, pdu: bytes) -> bool:
        if pdu[0] != DATA:
            self._node.sendall(pdu)
            return True
        context_id, control = pdu[10], pdu[11]
        if control & COMMAND:
            return self._store(pdu)
        if self._hang_next:
            self._node.sendall(pdu[: len(pdu) // 2])
            self._proxy.on_half()
            return False
        if self._instead is None:
            self._node.sendall(pdu)
        elif control & LAST:
            self._answer(context_id, self._instead)
        return True

    def _store(self, pdu: bytes) -> bool:
        """Decide about a request, whose data set comes next."""
        command = read_elements(pdu[12:])
        self._instead = None
        if int.from_bytes(command[0x0100], "little") != C_STORE_RQ:
            self._node.sendall(pdu)
            return True
        message_id = int.from_bytes(command[0x0110], "little")
        self._request = self._proxy._note(message_id, _uid(command[0x0002]), _uid(command[0x1000]))
        act = self._proxy.on_request(self._request)
        if isinstance(act, int):
            self._instead = act
            return True
        if act is Act.ABORT:
            self._client.sendall(ABORT_REQUEST)
            self._node.sendall(ABORT_REQUEST)
        if act in {Act.ABORT, Act.CUT}:
            return False
        self._hang_next = act is Act.HANG
        self._node.sendall(pdu)
        return True

    def _from_node(self, pdu: bytes) -> bool:
        if pdu[0] == DATA and self._request is not None:
            command = read_elements(pdu[12:])
            if int.from_bytes(command[0x0100], "little") == C_STORE_RSP:
                status = int.from_bytes(command[0x0900], "little")
                act = self._proxy.on_response(self._request, status)
                if not isinstance(act, int):
                    return False
                self._proxy.answers.append(Answered(self._request.sop_instance_uid, act))
                pdu = pdu.replace(_status(status), _status(act))
        self._send_back(pdu)
        return True

    def _answer(self, context_id: int, status: int) -> None:
        assert self._request is not None
        self._proxy.answers.append(Answered(self._request.sop_instance_uid, status))
        command = elements(
            (0x0002, _padded(self._request.sop_class_uid)),
            (0x0100, us(C_STORE_RSP)),
            (0x0120, us(self._request.message_id)),
            (0x0800, us(0x0101)),
            (0x0900, us(status)),
            (0x1000, _padded(self._request.sop_instance_uid)),
        )
        self._send_back(values((context_id, COMMAND | LAST, command)))

    def _send_back(self, pdu: bytes) -> None:
        self._proxy._pace(len(pdu))
        self._client.sendall(pdu)

    def _receive(self, source: socket.socket) -> bytes:
        """Return one PDU, or nothing at the end, be it in the middle of one."""
        header = self._exactly(source, 6)
        if not header:
            return b""
        (length,) = struct.unpack(">xxI", header)
        body = self._exactly(source, length)
        return header + body if len(body) == length else b""

    def _exactly(self, source: socket.socket, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            paced = source is self._client and self._proxy.bytes_per_second is not None
            piece = source.recv(min(size - len(received), PIECE_BYTES) if paced else size - len(received))
            if not piece:
                return b""
            if paced:
                self._proxy._pace(len(piece))
            received += piece
        return bytes(received)


def read_elements(command: bytes) -> dict[int, bytes]:
    """Return the elements of a command set (implicit VR little endian, PS3.7 §6.3.1)."""
    found, at = {}, 0
    while at < len(command):
        _group, element, size = struct.unpack_from("<HHI", command, at)
        found[element] = command[at + 8 : at + 8 + size]
        at += 8 + size
    return found


def _status(status: int) -> bytes:
    return struct.pack("<HHIH", 0, 0x0900, 2, status)


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii")


def _padded(uid: str) -> bytes:
    return uid.encode("ascii") + b"\0" * (len(uid) % 2)
