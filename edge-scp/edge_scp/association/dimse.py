"""Command sets: the requests a storage SCP understands and the responses it sends (PS3.7 §6.3, §9.3, §E).

A command set is implicit VR little endian, always (PS3.7 §6.3.1). The dozen elements of C-STORE, C-ECHO and
N-EVENT-REPORT are read and written here; all other requests are answered by their status alone, which needs no more.
"""

import io
import re
import struct
from functools import lru_cache
from typing import NamedTuple

from bucky.dimse.messages import data_pdus
from edge_scp.association.pdu import COMMAND, LAST, P_DATA_TF

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ, N_EVENT_REPORT_RQ = 0x0001, 0x0030, 0x0FFF, 0x0100
_RESPONSE = 0x8000
_NO_DATA_SET = 0x0101

_AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS = 0x0002, 0x0003
_COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_ID, _DATA_SET_TYPE = 0x0100, 0x0110, 0x0120, 0x0800
_STATUS, _ERROR_COMMENT = 0x0900, 0x0902
_AFFECTED_SOP_INSTANCE, _REQUESTED_SOP_INSTANCE, _EVENT_TYPE = 0x1000, 0x1001, 0x1002
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_GROUP_LENGTH = struct.Struct("<HHII")
_ONE_PDU = struct.Struct(">BxIIBB")
# The command set of nearly every C-STORE-RQ, element by element (PS3.7 Table 9.3-1).
_USUAL_STORE = re.compile(
    rb"\0\0\0\0\x04\0\0\0...."
    rb"\0\0\x02\0(.)\0\0\0([0-9.]+\0?)"
    rb"\0\0\0\x01\x02\0\0\0\x01\0"
    rb"\0\0\x10\x01\x02\0\0\0(..)"
    rb"\0\0\0\x07\x02\0\0\0.."
    rb"\0\0\0\x08\x02\0\0\0(..)"
    rb"\0\0\0\x10(.)\0\0\0([0-9.]+\0?)",
    re.DOTALL,
)
_LONGEST_UID = 64


class MalformedCommand(ValueError):
    """A command set is no request, so it can be neither obeyed nor answered."""


class Request(NamedTuple):
    """A DIMSE request; UIDs are as received, unchecked, and empty where there was none.

    `event_type` is an N-EVENT-REPORT's, and 0 elsewhere.
    """

    command_field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str
    event_type: int = 0


def read_request(command_set: bytes) -> Request:
    """Return the request in a command set."""
    usual = _USUAL_STORE.fullmatch(command_set)
    if usual is not None:
        class_length, sop_class_uid, message_id, data_set_type, instance_length, sop_instance_uid = usual.groups()
        has_data_set = _US.unpack(data_set_type)[0] != _NO_DATA_SET
        if class_length[0] == len(sop_class_uid) and instance_length[0] == len(sop_instance_uid):
            (number,) = _US.unpack(message_id)
            return Request(C_STORE_RQ, number, has_data_set, _uid_of(sop_class_uid), _uid_of(sop_instance_uid))
    return _read_any_request(command_set)


def _read_any_request(command_set: bytes) -> Request:
    values: dict[int, bytes] = {}
    at, end = 0, len(command_set)
    while at < end:
        if end - at < _ELEMENT.size:
            raise MalformedCommand("a command element is cut short")
        group, element, length = _ELEMENT.unpack_from(command_set, at)
        at += _ELEMENT.size
        if group != 0 or length > end - at:
            raise MalformedCommand("a command element is malformed")
        values[element] = command_set[at : at + length]
        at += length
    command_field = _number(values, _COMMAND_FIELD)
    if command_field & _RESPONSE:
        raise MalformedCommand("a response to a request that was never made")
    # C-CANCEL-RQ alone has no id of its own (PS3.7 Table 9.3-15).
    id_element = _RESPONDED_ID if command_field == C_CANCEL_RQ else _MESSAGE_ID
    has_data_set = _number(values, _DATA_SET_TYPE) != _NO_DATA_SET
    if has_data_set and command_field == C_CANCEL_RQ:
        raise MalformedCommand("a C-CANCEL-RQ that announces a data set")
    return Request(
        command_field,
        _number(values, id_element),
        has_data_set,
        _uid(values, _AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS),
        _uid(values, _AFFECTED_SOP_INSTANCE, _REQUESTED_SOP_INSTANCE),
        _number(values, _EVENT_TYPE) if command_field == N_EVENT_REPORT_RQ else 0,
    )


def response_pdus(context_id: int, request: Request, status: int, error_comment: str, max_pdu: int) -> bytes:
    """Return P-DATA-TF PDUs with the response to a request, no longer than the peer takes (0: any length)."""
    before, after = _around_the_ids(request.sop_class_uid, request.command_field, status, error_comment)
    instance = _uid_element(_AFFECTED_SOP_INSTANCE, request.sop_instance_uid)
    elements = before + _US.pack(request.message_id) + after + instance
    command_set = _GROUP_LENGTH.pack(0, 0, 4, len(elements)) + elements
    length = len(command_set) + 6
    if length <= max_pdu or not max_pdu:
        return _ONE_PDU.pack(P_DATA_TF, length, length - 4, context_id, COMMAND | LAST) + command_set
    return b"".join(data_pdus(context_id, io.BytesIO(command_set), max_pdu, command=True))


@lru_cache(maxsize=1024)
def _around_the_ids(sop_class_uid: str, command_field: int, status: int, error_comment: str) -> tuple[bytes, bytes]:
    """Return what the responses of an association have in common: the elements around the message's id, encoded."""
    before = (
        _uid_element(_AFFECTED_SOP_CLASS, sop_class_uid),
        _us_element(_COMMAND_FIELD, command_field | _RESPONSE),
        _ELEMENT.pack(0, _RESPONDED_ID, _US.size),
    )
    after = (
        _us_element(_DATA_SET_TYPE, _NO_DATA_SET),
        _us_element(_STATUS, status),
        _text_element(_ERROR_COMMENT, error_comment),
    )
    return b"".join(before), b"".join(after)


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != _US.size:
        raise MalformedCommand(f"(0000,{element:04X}) is missing or no unsigned short")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], *elements: int) -> str:
    for element in elements:
        if element in values:
            return _uid_of(values[element])
    return ""


def _uid_of(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def _uid_element(element: int, uid: str) -> bytes:
    """Return a UID as received, unless it was absent or can be none."""
    if not uid or len(uid) > _LONGEST_UID or not uid.isascii():
        return b""
    value = uid.encode("ascii")
    return _element(element, value + b"\0" * (len(value) % 2))


def _text_element(element: int, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    return _element(element, value + b" " * (len(value) % 2)) if value else b""


def _us_element(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + _US.pack(value)


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value
