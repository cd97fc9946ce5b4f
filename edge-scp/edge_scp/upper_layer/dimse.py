"""Command sets: the requests a storage SCP understands and the responses it sends (PS3.7 §6.3, §9.3, §E).

A command set is implicit VR little endian, always (PS3.7 §6.3.1). The dozen elements of C-STORE and C-ECHO are
read and written here; all other requests are answered by their status alone, which needs no more than these.
"""

import io
import struct
from typing import NamedTuple

from bucky.scu.messages import data_pdus

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
_RESPONSE = 0x8000
_NO_DATA_SET = 0x0101

_AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS = 0x0002, 0x0003
_COMMAND_FIELD, _MESSAGE_ID, _RESPONDED_ID, _DATA_SET_TYPE = 0x0100, 0x0110, 0x0120, 0x0800
_STATUS, _ERROR_COMMENT = 0x0900, 0x0902
_AFFECTED_SOP_INSTANCE, _REQUESTED_SOP_INSTANCE = 0x1000, 0x1001
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_LONGEST_UID = 64


class MalformedCommand(ValueError):
    """A command set is no request, so it can be neither obeyed nor answered."""


class Request(NamedTuple):
    """A DIMSE request; UIDs are as received, unchecked, and empty where there was none."""

    command_field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def read_request(command_set: bytes) -> Request:
    """Return the request in a command set."""
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
    )


def response_pdus(context_id: int, request: Request, status: int, error_comment: str, max_pdu: int) -> bytes:
    """Return P-DATA-TF PDUs with the response to a request, no longer than the peer takes (0: any length)."""
    elements = b"".join(
        (
            _uid_element(_AFFECTED_SOP_CLASS, request.sop_class_uid),
            _us_element(_COMMAND_FIELD, request.command_field | _RESPONSE),
            _us_element(_RESPONDED_ID, request.message_id),
            _us_element(_DATA_SET_TYPE, _NO_DATA_SET),
            _us_element(_STATUS, status),
            _text_element(_ERROR_COMMENT, error_comment),
            _uid_element(_AFFECTED_SOP_INSTANCE, request.sop_instance_uid),
        )
    )
    command_set = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
    return b"".join(data_pdus(context_id, io.BytesIO(command_set), max_pdu, command=True))


def _number(values: dict[int, bytes], element: int) -> int:
    value = values.get(element, b"")
    if len(value) != _US.size:
        raise MalformedCommand(f"(0000,{element:04X}) is missing or no unsigned short")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], *elements: int) -> str:
    for element in elements:
        if element in values:
            return values[element].decode("ascii", "replace").rstrip("\0 ")
    return ""


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
