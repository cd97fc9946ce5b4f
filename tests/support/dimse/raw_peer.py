"""A requestor that sends what it is told to, byte by byte if need be, and reads PDUs back."""

import io
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from bucky.dimse import Peer
from bucky.dimse.messages import Context, associate_request, data_pdus, store_request, store_response
from edge_scp.association.storage_syntaxes import VERIFICATION
from tests.support.waiting import PATIENCE

CT, EXPLICIT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
STORE_CONTEXT: Context = (CT, EXPLICIT)
CONTEXTS: Sequence[Context] = (STORE_CONTEXT, (VERIFICATION, IMPLICIT))
STORE_ID, ECHO_ID = 1, 3
RELEASE_RQ, RELEASE_RP = b"\x05\0\0\0\0\x04" + bytes(4), b"\x06\0\0\0\0\x04" + bytes(4)
ABORT = b"\x07\0\0\0\0\x04" + bytes(4)


def request(called: str = "BUCKY", calling: str = "TEST", contexts: Sequence[Context] = CONTEXTS) -> bytes:
    """Return an A-ASSOCIATE-RQ with the contexts numbered 1, 3…"""
    return associate_request(Peer(called, "127.0.0.1", 1, calling_aet=calling), contexts)


def values(*parts: tuple[int, int, bytes]) -> bytes:
    """Return one P-DATA-TF with values of (context id, control header, fragment)."""
    body = b"".join(struct.pack(">IBB", len(data) + 2, context, control) + data for context, control, data in parts)
    return struct.pack(">BxI", 4, len(body)) + body


def elements(*pairs: tuple[int, bytes]) -> bytes:
    """Return a command set of these elements."""
    body = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in pairs)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def us(value: int) -> bytes:
    """Return an unsigned short."""
    return struct.pack("<H", value)


def command(field: int, message_id: int = 1, sop_class: str = CT, *, data_set: bool = False) -> bytes:
    """Return the command set of any request."""
    padded = sop_class.encode() + b"\0" * (len(sop_class) % 2)
    return elements(
        (0x0002, padded), (0x0100, us(field)), (0x0110, us(message_id)), (0x0800, us(1 if data_set else 0x0101))
    )


def echo(message_id: int = 1) -> bytes:
    """Return a C-ECHO-RQ, in one PDU."""
    return values((ECHO_ID, 3, command(0x0030, message_id, VERIFICATION)))


def store(data_set: bytes, message_id: int = 1, max_pdu: int = 16384, uid: str = "1.2.3") -> bytes:
    """Return a C-STORE-RQ with its data set, in PDUs of a length."""
    command_set = store_request(message_id, CT, uid)
    pdus = [
        *data_pdus(STORE_ID, io.BytesIO(command_set), max_pdu, command=True),
        *data_pdus(STORE_ID, io.BytesIO(data_set), max_pdu),
    ]
    return b"".join(pdus)


class RawPeer:
    """One connection to a listener."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send it all."""
        self.socket.sendall(data)

    def associate(self) -> Self:
        """Open an association."""
        self.send(request())
        assert self.receive()[0] == 0x02
        return self

    def receive(self) -> bytes:
        """Return the next PDU whole, or nothing when the connection was closed."""
        header = self._exactly(6)
        return header + self._exactly(struct.unpack(">xxI", header)[0]) if header else b""

    def response(self) -> tuple[int, dict[int, bytes]]:
        """Return the context id and the elements of the response that comes next."""
        pdu = self.receive()
        assert pdu[:1] == b"\x04", pdu
        length, context_id, control = struct.unpack_from(">IBB", pdu, 6)
        assert (length, control) == (len(pdu) - 10, 3)
        found, at = {}, 12
        while at < len(pdu):
            _group, element, size = struct.unpack_from("<HHI", pdu, at)
            found[element] = pdu[at + 8 : at + 8 + size]
            at += 8 + size
        return context_id, found

    def status(self) -> int:
        """Return the status of the response that comes next."""
        return int.from_bytes(self.response()[1][0x0900], "little")

    def stored(self) -> tuple[int, int, str]:
        """Return message id, status and comment of the C-STORE-RSP that comes next."""
        response = store_response(self.receive()[12:])
        return response.message_id, response.status, response.comment

    def closed(self) -> bool:
        """Wait for the end; tell whether nothing came before it."""
        return self._exactly(1) == b""

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            try:
                chunk = self.socket.recv(size - len(received))
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return b""
            received += chunk
        return received
