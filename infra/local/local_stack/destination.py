"""A real C-STORE SCP to deliver to: keeps each data set as it came, and can be told to misbehave.

    python -m local_stack.destination --aet DEMO --port 11113 --dir DIR

Every instance becomes `DIR/<SOPInstanceUID>/<SHA-256 of its data set>.dcm`, written whole or not at all;
receiving it again changes nothing.
"""

import argparse
import hashlib
import logging
import os
import signal
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from socketserver import BaseServer
from types import TracebackType
from typing import Self, cast

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Verification,
    register_uid,
    uid_to_service_class,
)
from pynetdicom.transport import ThreadedAssociationServer

from bucky import log
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.dicom.uids import checked_uid
from bucky.dimse import status
from bucky.errors import InvalidInstance

HOST = "127.0.0.1"
MAX_PDU = 131072
MAX_ASSOCIATIONS = 64
REMEMBERED = 10_000
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One C-STORE request; `number` counts them from 1."""

    number: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    size: int


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """What to do with a request: wait `delay` seconds, then store and answer, or abort the association."""

    status: int = status.SUCCESS
    comment: str = ""
    delay: float = 0.0
    abort: bool = False


Script = Callable[[ReceivedRequest], ScriptedAnswer]


class _Shared(list[PresentationContext]):
    """Contexts that every association reads and none changes: copying them costs 60 ms each time."""

    def __deepcopy__(self, _memo: object) -> Self:
        return self


class Destination:
    """The SCP; `script` decides each answer, and only what is answered as stored is kept."""

    def __init__(
        self,
        directory: Path,
        *,
        aet: str = "DEMO",
        port: int = 0,
        script: Script | None = None,
        refused_sop_classes: Sequence[str] = (),
        transfer_syntaxes: Sequence[str] = tuple(ALL_TRANSFER_SYNTAXES),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.aet = aet
        self.directory = directory
        self.script: Script = script or (lambda _received: ScriptedAnswer())
        self.count = 0
        self.requests: deque[ReceivedRequest] = deque(maxlen=REMEMBERED)
        self._port = port
        self._tls = tls
        self._connections: dict[Association, socket.socket] = {}
        self._counting = threading.Lock()
        self._closing = threading.Event()
        self._server: ThreadedAssociationServer | None = None
        self._ae = AE(ae_title=aet)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = MAX_ASSOCIATIONS
        self._ae.maximum_pdu_size = MAX_PDU
        self._ae.add_supported_context(Verification)
        for sop_class in storage_sop_classes():
            if sop_class not in refused_sop_classes:
                self._ae.add_supported_context(sop_class, list(transfer_syntaxes))

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1]) if self._server else self._port

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._server = self._ae.make_server(
            (HOST, self._port),
            server_class=ThreadedAssociationServer,
            ssl_context=self._tls,
            evt_handlers=self.handlers(),
            contexts=_Shared(self._ae.supported_contexts),
        )
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        self._ae.shutdown()
        if self._server is not None:
            BaseServer.shutdown(self._server)  # the subclass's own expects a server its AE has started
            self._server.server_close()
        for connection in list(self._connections.values()):
            connection.close()

    def handlers(self) -> list[evt.EventHandlerType]:
        """Return what is called when something happens; a subclass may serve more."""
        return [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    def received(self) -> dict[str, Path]:
        """Return the file of every data set kept, by the SHA-256 computed now from its bytes."""
        return received(self.directory)

    def _opened(self, event: evt.Event) -> None:
        """Remember the socket: pynetdicom forgets to close one whose peer went first."""
        if event.assoc.dul.socket is not None and event.assoc.dul.socket.socket is not None:
            self._connections[event.assoc] = event.assoc.dul.socket.socket

    def _closed(self, event: evt.Event) -> None:
        connection = self._connections.pop(event.assoc, None)
        if connection is not None:
            connection.close()

    def _store(self, event: evt.Event) -> Dataset:
        request, context = cast(C_STORE, event.request), event.context
        data_set = request.DataSet.getvalue() if request.DataSet else b""
        with self._counting:
            self.count += 1
            received = ReceivedRequest(
                self.count,
                str(request.AffectedSOPClassUID),
                str(request.AffectedSOPInstanceUID),
                str(context.transfer_syntax),
                str(event.assoc.requestor.ae_title),
                len(data_set),
            )
            self.requests.append(received)
        answer = self.script(received)
        self._closing.wait(answer.delay)
        if answer.abort:
            event.assoc.abort()
        elif status.outcome(answer.status).arrived:
            try:
                self._keep(received, data_set)
            except InvalidInstance as error:
                answer = ScriptedAnswer(status.CANNOT_UNDERSTAND, str(error)[:64])
        return _status(answer)

    def _keep(self, received: ReceivedRequest, data_set: bytes) -> None:
        folder = self.directory / checked_uid(received.sop_instance_uid, "Affected SOP Instance UID")
        folder.mkdir(exist_ok=True)
        final = folder / f"{hashlib.sha256(data_set).hexdigest()}.dcm"
        draft = final.with_suffix(f".{threading.get_ident()}.part")
        meta = FileMeta(
            received.sop_class_uid,
            received.sop_instance_uid,
            received.transfer_syntax_uid,
            received.calling_aet,
            self.aet,
        )
        with draft.open("wb") as file:
            file.write(file_header(meta))
            file.write(data_set)
        draft.replace(final)


def received(directory: Path) -> dict[str, Path]:
    """Return the file of every data set kept there, by the SHA-256 computed now from its bytes."""
    found: dict[str, Path] = {}
    for path in sorted(directory.glob("*/*.dcm")):
        content = path.read_bytes()
        _meta, offset = split(content)
        found[hashlib.sha256(content[offset:]).hexdigest()] = path
    return found


def storage_sop_classes() -> tuple[str, ...]:
    """Return every storage SOP class the standard ever named, retired ones too."""
    current = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    named = {
        uid: keyword
        for uid, (name, kind, _info, _retired, keyword) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not name.startswith(("Media Storage", "Storage Comm"))
    }
    for uid in named.keys() - current:
        if uid_to_service_class(uid) is ServiceClass:
            register_uid(uid, named[uid], StorageServiceClass)
    return tuple(sorted(current | named.keys()))


def _status(answer: ScriptedAnswer) -> Dataset:
    response = Dataset()
    response.Status = answer.status
    if answer.comment:
        response.ErrorComment = answer.comment
    return response


def _script(arguments: argparse.Namespace) -> Script:
    def script(received: ReceivedRequest) -> ScriptedAnswer:
        chosen = received.number % arguments.every == 0
        return ScriptedAnswer(
            status=arguments.answer if chosen else status.SUCCESS,
            delay=arguments.delay if chosen else 0.0,
            abort=arguments.abort and chosen,
        )

    return script


def main() -> None:
    """Run until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m local_stack.destination", description=__doc__)
    parser.add_argument("--aet", default="DEMO", help="AE title; calls for another are rejected")
    parser.add_argument("--port", type=int, default=11113, help="port on 127.0.0.1")
    parser.add_argument("--dir", type=Path, required=True, help="folder to keep instances in")
    parser.add_argument("--refuse-sop-class", action="append", default=[], metavar="UID")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="misbehave at every Nth request")
    parser.add_argument("--answer", type=lambda text: int(text, 16), default=0, metavar="STATUS", help="hex")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="before answering")
    parser.add_argument("--abort", action="store_true", help="abort the association instead of answering")
    arguments = parser.parse_args()
    log.configure()
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logger = log.get_logger("destination")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    destination = Destination(
        arguments.dir,
        aet=arguments.aet,
        port=arguments.port,
        script=_script(arguments),
        refused_sop_classes=arguments.refuse_sop_class,
    )
    with destination:
        logger.info("destination.started", aet=arguments.aet, port=destination.port, pid=os.getpid())
        ended.wait()
    logger.info("destination.stopped", requests=destination.count)


if __name__ == "__main__":
    main()
