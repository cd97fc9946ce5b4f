"""The PDUs and command sets that a C-STORE sender writes and reads (PS3.8 §9.3, PS3.7 §9.3.1).

An A-ASSOCIATE-RQ is written by pynetdicom's classes; an A-ASSOCIATE-AC is read here, so that what only informs in it
ends nothing. The C-STORE messages are a dozen fixed fields, written here, so that a data set passes through as the
bytes it is.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from bucky.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from bucky.dimse import association_items as variable
from bucky.dimse.association_items import MalformedItem, UserInformation, items, uid_of
from bucky.dimse.peer import Peer

ASSOCIATE_AC, ASSOCIATE_RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
RELEASE_REQUEST = struct.pack(">BBIxxxx", RELEASE_RQ, 0, 4)
RELEASE_RESPONSE = struct.pack(">BBIxxxx", RELEASE_RP, 0, 4)
ABORT_REQUEST = struct.pack(">BBIxxxx", ABORT, 0, 4)

MAX_CONTEXTS = 128
"""Presentation context ids are the odd numbers below 256 (PS3.8 §9.3.2.2)."""
MAX_RECEIVED = 16384
MAX_FRAGMENT = 256 * 1024
UNREADABLE_MAX_PDU = 16384
"""What a peer is sent whose own maximum length cannot be read: everybody takes that."""
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_PDU_HEADER = 6
_COMMAND, _LAST = 0x01, 0x02
_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001
_HAS_DATA_SET, _NO_DATA_SET = 0x0001, 0x0101
_MEDIUM = 0x0000

Context = tuple[str, str]
"""A SOP class and the one transfer syntax it is proposed in: the peer cannot choose another."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an A-ASSOCIATE-AC grants; `max_pdu` is in bytes, 0 for no limit.

    `oddities` are what breaks the standard in it, in words and without values.
    """

    accepted: dict[Context, int]
    refused: dict[Context, int]
    max_pdu: int
    oddities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """A C-STORE-RSP; `comment` is the peer's own Error Comment (0000,0902)."""

    message_id: int
    status: int
    comment: str


def associate_request(peer: Peer, contexts: Sequence[Context]) -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes at most 128 contexts, with ids 1, 3, 5…"""
    return _associate_request(peer, tuple(contexts))


@lru_cache(64)
def _associate_request(peer: Peer, contexts: tuple[Context, ...]) -> bytes:
    """Encode it, once for all associations that propose the same."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(_APPLICATION_CONTEXT)
    primitive.calling_ae_title = peer.calling_aet
    primitive.called_ae_title = peer.aet
    primitive.presentation_context_definition_list = [
        _proposed(2 * index + 1, context) for index, context in enumerate(contexts)
    ]
    length = MaximumLengthNotification()
    length.maximum_length_received = MAX_RECEIVED
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive.user_information = [length, implementation, version]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def acceptance(pdu: bytes, contexts: Sequence[Context]) -> Acceptance:
    """Read an A-ASSOCIATE-AC answering these contexts; raise `ValueError` when it cannot be told what it grants.

    A context it does not mention, or answers with another transfer syntax, counts as refused. AE titles and reserved
    fields are not looked at (PS3.8 Table 9-17).
    """
    if len(pdu) < _PDU_HEADER + variable.FIXED_BYTES:
        raise ValueError("the PDU is cut short")
    answers: dict[int, tuple[int, str]] = {}
    user: UserInformation | None = None
    oddities: list[str] = []
    for kind, content in items(pdu[_PDU_HEADER + variable.FIXED_BYTES :]):
        if kind == variable.USER_INFORMATION:
            user = variable.user_information(content)
        elif kind == variable.PRESENTATION_CONTEXT_RESULT:
            answer = _context_answer(content)
            if answer is None:
                oddities.append("an answer to a presentation context is malformed")
            else:
                answers.setdefault(answer[0], answer[1:])
    accepted: dict[Context, int] = {}
    refused: dict[Context, int] = {}
    for index, context in enumerate(contexts):
        result, syntax = answers.get(2 * index + 1, (-1, ""))
        if result == 0 and syntax == context[1]:
            accepted[context] = 2 * index + 1
        else:
            refused[context] = result
    if user is None:
        user = UserInformation(None, oddities=("there is no user information",))
    max_pdu = UNREADABLE_MAX_PDU if user.maximum_length is None else user.maximum_length
    fragment_size(max_pdu)
    return Acceptance(accepted, refused, max_pdu, (*oddities, *user.oddities))


def _context_answer(content: bytes) -> tuple[int, int, str] | None:
    """Return a context's id, result and transfer syntax (PS3.8 Table 9-18), or None when it is malformed.

    The transfer syntax of a refusal means nothing, and may be missing.
    """
    if len(content) < variable.CONTEXT_HEAD_BYTES:
        return None
    context_id, _, result, _ = content[: variable.CONTEXT_HEAD_BYTES]
    syntax = ""
    try:
        for kind, value in items(content[variable.CONTEXT_HEAD_BYTES :]):
            if kind == variable.TRANSFER_SYNTAX:
                syntax = syntax or uid_of(value)
    except MalformedItem:
        if result == 0:
            return None
    return context_id, result, syntax


def rejection(pdu: bytes) -> str:
    """Say in words why the association was rejected (PS3.8 Table 9-21)."""
    decoded = A_ASSOCIATE_RJ()
    try:
        decoded.decode(pdu)
    except Exception as error:  # pynetdicom's decoders raise whatever malformed bytes lead them to
        raise ValueError("the PDU is malformed") from error
    try:
        return f"{decoded.result_str}: {decoded.reason_str}"
    except ValueError:
        return f"result {decoded.result}, source {decoded.source}, reason {decoded.reason_diagnostic}"


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the command set of a C-STORE-RQ (implicit VR little endian, PS3.7 §6.3.1)."""
    elements = b"".join(
        (
            element(0x0002, padded(sop_class_uid)),
            element(0x0100, struct.pack("<H", _C_STORE_RQ)),
            element(0x0110, struct.pack("<H", message_id)),
            element(0x0700, struct.pack("<H", _MEDIUM)),
            element(0x0800, struct.pack("<H", _HAS_DATA_SET)),
            element(0x1000, padded(sop_instance_uid)),
        )
    )
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def store_response(command: bytes) -> StoreResponse:
    """Read the command set of a C-STORE-RSP; raise `ValueError` when it is anything else.

    Command Data Set Type (0000,0800) may be missing: a C-STORE-RSP never has a data set (PS3.7 §9.3.1.2).
    """
    values = command_elements(command)
    if number(values, 0x0100) != _C_STORE_RSP or (0x0800 in values and number(values, 0x0800) != _NO_DATA_SET):
        raise ValueError("the message is not a C-STORE response")
    comment = values.get(0x0902, b"").decode("latin-1").strip("\0 ")
    return StoreResponse(number(values, 0x0120), number(values, 0x0900), comment)


def command_elements(command: bytes) -> dict[int, bytes]:
    """Return the values of a command set by element number; raise `ValueError` when it is malformed."""
    values: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if at + 8 > len(command):
            raise ValueError("a command element is cut short")
        group, element, length = struct.unpack_from("<HHI", command, at)
        at += 8
        if group != 0 or at + length > len(command):
            raise ValueError("a command element is malformed")
        values[element] = command[at : at + length]
        at += length
    return values


def data_pdus(context_id: int, content: BinaryIO, max_pdu: int, *, command: bool = False) -> Iterator[bytes]:
    """Yield P-DATA-TF PDUs, one value each, that carry the stream from where it stands to its end."""
    control = _COMMAND if command else 0
    size = fragment_size(max_pdu)
    fragment = content.read(size)
    while True:
        following = content.read(size)
        flags = control if following else control | _LAST
        length = len(fragment) + 2
        yield struct.pack(">BxIIBB", DATA, length + 4, length, context_id, flags) + fragment
        if not following:
            return
        fragment = following


def command_fragments(pdu: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the command fragments in a P-DATA-TF PDU and whether each is the last; raise `ValueError`."""
    for fragment, is_command, last in fragments(pdu):
        if not is_command:
            raise ValueError("the peer sent a data set that was not asked for")
        yield fragment, last


def fragments(pdu: bytes) -> Iterator[tuple[bytes, bool, bool]]:
    """Yield each fragment in a P-DATA-TF PDU, whether it is a command's, and whether it is the last of its kind."""
    at = 6
    while at < len(pdu):
        if at + 6 > len(pdu):
            raise ValueError("a presentation data value is cut short")
        length, _context_id, control = struct.unpack_from(">IBB", pdu, at)
        if length < 2 or at + 4 + length > len(pdu):
            raise ValueError("a presentation data value has an impossible length")
        yield pdu[at + 6 : at + 4 + length], bool(control & _COMMAND), bool(control & _LAST)
        at += 4 + length


def fragment_size(max_pdu: int) -> int:
    """Return how many bytes go in one value: an even number, at most 256 KiB (PS3.8 §D.1, Annex E)."""
    fits = MAX_FRAGMENT if max_pdu == 0 else min(MAX_FRAGMENT, max_pdu - 6)
    if fits < 2:
        raise ValueError(f"the peer accepts no PDU longer than {max_pdu} bytes")
    return fits - fits % 2


def _proposed(context_id: int, context: Context) -> PresentationContext:
    proposal = PresentationContext()
    proposal.context_id = context_id
    proposal.abstract_syntax, proposal.transfer_syntax = UID(context[0]), [UID(context[1])]
    return proposal


def element(tag: int, value: bytes) -> bytes:
    """Return an element of a command set, by its element number."""
    return struct.pack("<HHI", 0, tag, len(value)) + value


def padded(uid: str) -> bytes:
    """Return a UID at an even length."""
    value = uid.encode("ascii")
    return value + b"\0" * (len(value) % 2)


def number(values: dict[int, bytes], tag: int) -> int:
    """Return an unsigned short of a command set; raise `ValueError` when it is not there."""
    value = values.get(tag, b"")
    if len(value) != 2:
        raise ValueError(f"the response lacks (0000,{tag:04X})")
    return int.from_bytes(value, "little")
