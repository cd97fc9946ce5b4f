"""Conversations to hold with a receiver twice: with its fast path, and without."""

import select
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bucky.scu.messages import Context
from edge_scp.storage_syntaxes import VERIFICATION
from tests.support.dimse.raw_peer import CT, EXPLICIT, IMPLICIT, RawPeer, command, elements, request, us, values
from tests.support.edge.edge_process import ListenerAlone
from tests.support.waiting import PATIENCE

BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
CONTEXTS: Sequence[Context] = (
    (CT, EXPLICIT),
    (VERIFICATION, IMPLICIT),
    (CT, IMPLICIT),
    (CT, BIG_ENDIAN),
    (CT, DEFLATED),
)
EXPLICIT_ID, ECHO_ID, IMPLICIT_ID, BIG_ENDIAN_ID, DEFLATED_ID = 1, 3, 5, 7, 9


def element(tag: int, vr: bytes, value: bytes, *, implicit: bool = False, length: int | None = None) -> bytes:
    """Return one element in little endian."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", size) + value
    if vr in {b"SQ", b"UN", b"OB", b"UT"}:
        return head + vr + struct.pack("<HI", 0, size) + value
    return head + vr + struct.pack("<H", size & 0xFFFF) + value


def uid(text: str) -> bytes:
    """Return a UID as it is encoded."""
    return text.encode() + b"\0" * (len(text) % 2)


def data_set(instance: str, *, implicit: bool = False, before: bytes = b"", pixels: int = 500) -> bytes:
    """Return a data set with all UIDs; `before` goes between the SOP Instance UID and the Study Instance UID."""

    def encoded(tag: int, vr: bytes, value: bytes) -> bytes:
        return element(tag, vr, value, implicit=implicit)

    return b"".join(
        (
            encoded(0x00080016, b"UI", uid(CT)),
            encoded(0x00080018, b"UI", uid(instance)),
            before,
            encoded(0x0020000D, b"UI", uid("1.2.3")),
            encoded(0x0020000E, b"UI", uid("1.2.3.1")),
            encoded(0x7FE00010, b"UN", bytes(range(256)) * (pixels // 256) + bytes(pixels % 256)),
        )
    )


def store_command(instance: str, message_id: int, *, sop_class: str = CT) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return elements(
        (0x0002, uid(sop_class)),
        (0x0100, us(1)),
        (0x0110, us(message_id)),
        (0x0700, us(0)),
        (0x0800, us(1)),
        (0x1000, uid(instance)),
    )


def fragments(context_id: int, data: bytes, size: int) -> bytes:
    """Return a data set in P-DATA-TFs with fragments of a size."""
    starts = range(0, max(len(data), 1), size)
    return b"".join(values((context_id, 2 * (at + size >= len(data)), data[at : at + size])) for at in starts)


def store(context_id: int, data: bytes, instance: str, message_id: int = 1, size: int = 16000) -> bytes:
    """Return a C-STORE-RQ with its data set."""
    return values((context_id, 3, store_command(instance, message_id))) + fragments(context_id, data, size)


def echo(message_id: int = 1) -> bytes:
    """Return a C-ECHO-RQ."""
    return values((ECHO_ID, 3, command(0x0030, message_id, VERIFICATION)))


@contextmanager
def associated(alone: ListenerAlone) -> Iterator[RawPeer]:
    """Hold an association for the length of a block."""
    with RawPeer(alone.port) as peer:
        yield peer.associate()


@dataclass(frozen=True)
class Outcome:
    """What came of a conversation: the PDUs that answered each turn, and the files kept, but for their footers."""

    answered: list[list[bytes]]
    kept: list[bytes]


def hold(alone: ListenerAlone, talk: Iterable[bytes], chunk: int) -> Outcome:
    """Say one thing after the other in an association, in chunks, each when the last was answered; then close."""
    answered = []
    with RawPeer(alone.port) as peer:
        peer.send(request(contexts=CONTEXTS))
        assert peer.receive()[0] == 0x02
        for turn in talk:
            # It may have aborted.
            with suppress(BrokenPipeError, ConnectionResetError):
                for at in range(0, len(turn), chunk):
                    peer.send(turn[at : at + chunk])
            alone.until_quiet(peer.socket)
            answered.append(list(pdus(b"".join(_received(peer)))))
    deadline = time.monotonic() + PATIENCE
    while alone.connections:
        assert time.monotonic() < deadline, "the connection is still served"
        time.sleep(0.002)
    alone.until_synced()
    return Outcome(answered, sorted(alone.files()))


def pdus(data: bytes) -> Iterator[bytes]:
    """Cut what was received into PDUs, the last of which may be cut short."""
    at = 0
    while at < len(data):
        end = at + 6 + struct.unpack_from(">xxI", data, at)[0]
        yield data[at:end]
        at = end


def _received(peer: RawPeer) -> Iterator[bytes]:
    """Iterate over what has arrived by now."""
    while select.select([peer.socket], [], [], 0)[0]:
        try:
            received = peer.socket.recv(65536)
        except ConnectionResetError:
            return
        if not received:
            return
        yield received
