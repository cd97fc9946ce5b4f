"""What VR an element has that does not say so: in implicit VR, or sent as UN (PS3.5 §6.2.2).

Public elements are in the data dictionary, private ones in pydicom's by their creator. A sequence shows by its items.
What is left is UN, and stays bytes that may be text: whoever asks about it decides (`texts_of_unknown`).
"""

import struct
from functools import lru_cache

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.character_sets import CharacterSet
from bucky.dicom.padding import PADDING, without_padding

WRITABLE_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
) | frozenset(["FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"])
"""The VRs whose values are texts or numbers."""

_ITEM, _SEQUENCE_END, _UNDEFINED = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
_HEAD = struct.Struct("<HHI").unpack_from
_SHORTEST_TEXT, _NUMBER_SIZES = 3, frozenset({4, 8})
_CONTROL = frozenset(range(0x20)) - frozenset(b"\t\n\f\r\x1b") | {0x7F}


@lru_cache(8192)
def dictionary_vr(tag: int) -> str:
    """Return the VR of a public element, or nothing that is plain."""
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""


def settled_vr(dataset: Dataset, raw: RawDataElement) -> str:
    """Return the VR of an undecoded element of a data set; `UN` when nobody knows, `US or SS` where that depends."""
    vr = raw.VR
    if vr is not None and vr != "UN":
        return str(vr)
    tag = int(raw.tag)
    known = _private_vr(dataset, tag) if tag >> 16 & 1 else dictionary_vr(tag)
    if known:
        return known
    return "SQ" if raw.value and _is_items(raw.value) else "UN" if tag & 0xFFFF else "UL"


def texts_of_unknown(value: bytes, character_set: CharacterSet) -> tuple[str, ...]:
    """Return the values of an element of unknown VR when it reads as text, else nothing."""
    value = value.rstrip(PADDING.encode())
    if not may_be_text(value):
        return ()
    try:
        text = character_set.decode(value, "LO", strict=True)
    except ValueError:
        return ()
    return tuple(without_padding(one, "LO") for one in text.split("\\"))


def may_be_text(value: bytes) -> bool:
    """Return whether there are no bytes among these, but padding at the end, that text does not have."""
    text = value.rstrip(PADDING.encode())
    return bool(text) and _CONTROL.isdisjoint(text)


def is_likely_text(value: bytes) -> bool:
    """Return whether bytes are more likely text, of whichever character set, than a number or anything else."""
    text = value.rstrip(PADDING.encode())
    if len(text) < _SHORTEST_TEXT or not may_be_text(value):
        return False
    letters = sum(1 for byte in text if byte < 0x80 and chr(byte).isalpha())
    return len(value) not in _NUMBER_SIZES or letters >= len(text) // 2


def _private_vr(dataset: Dataset, tag: int) -> str:
    """Return the VR of a private element by its creator, or nothing."""
    element = tag & 0xFFFF
    if 0x10 <= element <= 0xFF:
        return "LO"  # a private creator (PS3.5 §7.8.1)
    if element < 0x1000:
        return ""
    creator = dataset.get_item(BaseTag(tag & 0xFFFF0000 | element >> 8))
    name = _creator(creator)
    return _by_creator(tag, name) if name else ""


def _creator(element: DataElement | RawDataElement | None) -> str:
    if element is None:
        return ""
    value = element.value
    if isinstance(value, bytes):
        value = value[:256].decode("ascii", "replace")
    return without_padding(value, "LO") if isinstance(value, str) else ""


@lru_cache(8192)
def _by_creator(tag: int, creator: str) -> str:
    try:
        return private_dictionary_VR(tag, creator)
    except KeyError:
        return ""


def _is_items(value: bytes) -> bool:
    """Return whether bytes are the items of a sequence in implicit VR little endian, end to end."""
    at = 0
    while at + 8 <= len(value):
        group, number, length = _HEAD(value, at)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return at > 0
        if tag != _ITEM:
            return False
        if length == _UNDEFINED:
            return True  # where it ends only its elements tell
        at += 8 + length
    return at == len(value) and at > 0
