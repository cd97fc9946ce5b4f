"""Wires between the processes of a stack, with a trip in them: at one exact message somebody is killed.

Each message that comes by is told to the trip wire by its kind and content; when it is the one that is waited for,
the action runs before the message goes any further, and the connection that carried it is cut.
"""

import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import BinaryIO

from tests.support.dimse.dimse_proxy import Act, DimseProxy
from tests.support.network.accepting import accept_each, shut, stop_accepting
from tests.support.network.pausable_server import PausableServer

ANSWERED = " answered"
"""What the kind of an answer ends in; without it, it is the question's."""
_BATCH = re.compile(rb"Nats-Batch-Id: *[0-9a-f]+")
_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class TripWire:
    """Waits for one message: of a kind, and with one of some words in it."""

    def __init__(self) -> None:
        self._waiting: tuple[str, tuple[bytes, ...], Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self.fired = threading.Event()
        self.failure: BaseException | None = None

    def arm(self, kind: str, words: tuple[bytes, ...], action: Callable[[], None]) -> None:
        """Wait for the next message of this kind that holds one of the words."""
        self.fired.clear()
        with self._lock:
            self._waiting = kind, words, action

    def passes(self, kind: str, content: bytes) -> bool:
        """Tell of a message; return whether it may go on."""
        with self._lock:
            if self._waiting is None or kind != self._waiting[0]:
                return True
            if not any(word in content for word in self._waiting[1]):
                return True
            action, self._waiting = self._waiting[2], None
        try:
            action()
        except BaseException as error:  # noqa: BLE001 - told to the test, whose thread this is not
            self.failure = error
        self.fired.set()
        return False


def watched(proxy: DimseProxy, kind: str, trip: TripWire) -> DimseProxy:
    """Have a DIMSE proxy tell of each C-STORE request and of each answer."""
    proxy.on_request = lambda request: Act.PASS if trip.passes(kind, request.sop_instance_uid.encode()) else Act.CUT
    proxy.on_response = lambda request, status: (
        status if trip.passes(kind + ANSWERED, request.sop_instance_uid.encode()) else Act.CUT
    )
    return proxy


class HttpWire(PausableServer):
    """Passes requests on to a port; `kind_of` says what a method and path are."""

    def __init__(self, port: Callable[[], int], trip: TripWire, kind_of: Callable[[str, str], str]) -> None:
        super().__init__()
        self._upstream, self._trip, self._kind_of = port, trip, kind_of

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Pass one request on, and its answer back."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        content = request.path.encode() + b"\n" + body
        kind = self._kind_of(request.command, request.path)
        if not self._trip.passes(kind, content):
            self._cut(request)
            return
        try:
            status, headers, answer = self._passed_on(request, body)
        except (OSError, http.client.HTTPException):
            self._cut(request)
            return
        if not self._trip.passes(kind + ANSWERED, content):
            self._cut(request)
            return
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP or (request.command == "HEAD" and name.lower() == "content-length"):
                request.send_header(name, value)
        if request.command != "HEAD" and status not in {204, 304}:
            request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def _passed_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._upstream(), timeout=120)) as server:
            # The headers as they came: the store's are signed.
            server.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP_BY_HOP - {"content-length"}:
                    server.putheader(name, value)
            server.endheaders(body or None)
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def _cut(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        shut(request.connection)


class NatsWire:
    """Passes the NATS protocol on to a port, message by message.

    Kinds are `publish TYPE` with its acknowledgement as the answer, and `ack TYPE`. The content of these two is the
    message that is acknowledged, or all of its batch. Types are subjects without what comes after the third token.
    """

    def __init__(self, port: int, trip: TripWire) -> None:
        self._upstream, self._trip = port, trip
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        accept_each(self._listener, self._serve)

    def close(self) -> None:
        """Listen no longer."""
        stop_accepting(self._listener)

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream), timeout=60)
            except OSError:
                return
            with server:
                server.settimeout(None)
                ways = _NatsConnection(self._trip, client, server)
                back = threading.Thread(target=ways.back, daemon=True)
                back.start()
                ways.forth()
                back.join()


class _NatsConnection:
    """One client's connection: both ways, and what is known of each message by the subject it is answered on."""

    def __init__(self, trip: TripWire, client: socket.socket, server: socket.socket) -> None:
        self._trip, self._client, self._server = trip, client, server
        self._published: dict[str, tuple[str, bytes]] = {}
        self._delivered: dict[str, tuple[str, bytes]] = {}
        self._batches: dict[bytes, bytes] = {}
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def forth(self) -> None:
        """Carry what the client says."""
        self._carry(self._client, self._server, {b"PUB", b"HPUB"}, 2, self._from_client)

    def back(self) -> None:
        """Carry what the server says."""
        self._carry(self._server, self._client, {b"MSG", b"HMSG"}, 3, self._from_server)

    def _carry(
        self,
        source: socket.socket,
        sink: socket.socket,
        verbs: set[bytes],
        fixed: int,
        told: Callable[[str, str, bytes], bool],
    ) -> None:
        """Carry lines, and with these verbs a payload; `fixed` words come before an optional subject for answers."""
        with contextlib.suppress(OSError, ValueError), source.makefile("rb") as lines:
            while line := lines.readline():
                words = line.split()
                if words and words[0].upper() in verbs:
                    sizes = 2 if words[0].upper().startswith(b"H") else 1
                    payload = _exactly(lines, int(words[-1]) + 2)
                    reply = words[fixed].decode() if len(words) > fixed + sizes else ""
                    if not told(words[1].decode(), reply, payload):
                        break
                    line += payload
                sink.sendall(line)
        shut(source, sink)

    def _from_client(self, subject: str, reply: str, payload: bytes) -> bool:
        if subject in self._delivered:
            kind, content = self._delivered[subject]
            return not _is_ack(payload) or self._trip.passes(f"ack {kind}", content)
        if not subject.startswith("dicom."):
            return True
        kind, answered = f"publish {_type(subject)}", payload
        if batch := _BATCH.search(payload):
            # Its last message alone is answered, for all of them.
            answered = self._batches[batch[0]] = self._batches.get(batch[0], b"") + payload
        if reply:
            self._published[reply] = kind, answered
        return self._trip.passes(kind, payload)

    def _from_server(self, subject: str, reply: str, payload: bytes) -> bool:
        if reply.startswith("$JS.ACK."):
            self._delivered[reply] = _type(subject), payload
        kind, content = self._published.pop(subject, ("", b""))
        return not kind or self._trip.passes(kind + ANSWERED, content)


def _type(subject: str) -> str:
    return ".".join(subject.split(".")[:3])


def _is_ack(payload: bytes) -> bool:
    return payload.strip() in {b"", b"+ACK"}


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the connection ended in the middle of a message")
    return data
