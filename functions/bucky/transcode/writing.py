"""Writing a data set's elements in another transfer syntax: new headers, and every value byte for byte.

Only what is big endian is turned round. Sequences come out with lengths, and lengths of groups (PS3.5 §7.2) do not.
"""

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from bucky.dicom.element_vr import dictionary_vr
from bucky.dicom.pixel_length import PIXEL_DATA, named
from bucky.dicom.structure import Node, Nodes, Structure, belongs
from bucky.transcode import CannotTranscode
from bucky.transcode.image import ALLOCATED, REPRESENTATION

_LONG = frozenset(str(vr) for vr in EXPLICIT_VR_LENGTH_32)
_MAX_SHORT = 0xFFFF
_ITEM = 0xFFFEE000
_UNDEFINED = 0xFFFFFFFF
_SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
WORDS: Mapping[str, int] = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
"""How many bytes of a value are one number."""


class Writer:
    """Writes the elements of one data set; `replaced` has new values for some outside sequences, each with its VR."""

    def __init__(self, source: Structure, *, implicit: bool, replaced: Mapping[int, tuple[str, bytes]]) -> None:
        self._source = source
        self._implicit = implicit
        self._replaced = replaced

    def write(self, nodes: Nodes, target: BinaryIO) -> None:
        """Write them all, without those whose new value is empty."""
        signed = _number(self._source, nodes, REPRESENTATION) == 1
        wide = (_number(self._source, nodes, ALLOCATED) or 0) > 8
        known = {node.tag: node for node in nodes}
        for tag in sorted(known.keys() | self._replaced.keys()):
            if tag in self._replaced:
                vr, value = self._replaced[tag]
                target.write(self._element(tag, vr, value, implicit=self._implicit) if value else b"")
            elif belongs(tag):
                vr = _settled(known[tag], "", signed=signed, wide=wide) or self._private_vr(known[tag], nodes)
                target.write(self._node(known[tag], vr, signed=signed, implicit=self._implicit))

    def _node(self, node: Node, vr: str, *, signed: bool, implicit: bool) -> bytes:
        if node.items is not None:
            vr = "SQ"  # UN of undefined length is one, too (PS3.5 §6.2.2)
            value = b"".join(self._item(item, signed=signed, implicit=implicit) for item in node.items)
            if implicit and dictionary_vr(node.tag) != "SQ":  # without a length it shows that it is a sequence
                return struct.pack("<HHI", node.tag >> 16, node.tag & 0xFFFF, _UNDEFINED) + value + _SEQUENCE_END
        else:
            value = self._source.value(node)
            if not self._source.little:
                value = turned_round(value, vr, node.tag)
        return self._element(node.tag, vr, value, implicit=implicit)

    def _item(self, nodes: Nodes, *, signed: bool, implicit: bool) -> bytes:
        own = _number(self._source, nodes, REPRESENTATION)
        signed = signed if own is None else own == 1
        wide = (_number(self._source, nodes, ALLOCATED) or 0) > 8
        content = b""
        for node in sorted(nodes, key=lambda node: node.tag):
            if node.tag & 0xFFFF:
                vr = _settled(node, "", signed=signed, wide=wide) or self._private_vr(node, nodes)
                content += self._node(node, vr, signed=signed, implicit=implicit)
        return struct.pack("<HHI", _ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content

    def _private_vr(self, node: Node, nodes: Nodes) -> str:
        """Return the VR that is known of a private element by its creator (PS3.5 §7.8.1), else UN."""
        number = node.tag & 0xFFFF
        if number < 0x1000:
            return "LO" if 0x10 <= number <= 0xFF else "UN"
        creator_tag = node.tag & 0xFFFF0000 | number >> 8
        creator = next((self._source.value(one) for one in nodes if one.tag == creator_tag), b"")
        try:
            vr = private_dictionary_VR(node.tag, creator.decode("latin-1").strip(" \0"))
        except KeyError:
            return "UN"
        size = node.value_end - node.value_at
        fits = size % WORDS.get(vr, 1) == 0 and vr in _LONG | _SHORT_TEXTS | WORDS.keys()
        return vr if fits and vr != "SQ" else "UN"

    def _element(self, tag: int, vr: str, value: bytes, *, implicit: bool) -> bytes:
        value += b"\0" * (len(value) % 2) if vr in _PADDED_WITH_NUL else b" " * (len(value) % 2)
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        if implicit:
            return head + struct.pack("<I", len(value)) + value
        if vr not in _LONG and len(value) > _MAX_SHORT:
            vr = "UN"  # PS3.5 §6.2.2, note
        if vr in _LONG:
            return head + vr.encode() + struct.pack("<HI", 0, len(value)) + value
        return head + vr.encode() + struct.pack("<H", len(value)) + value


_PADDED_WITH_NUL = frozenset(("UI", "OB", "UN", *WORDS))
_SHORT_TEXTS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"))


def _settled(node: Node, otherwise: str, *, signed: bool, wide: bool) -> str:
    """Return an element's VR: its own, or a public one's by the dictionary, one of several by what it is for."""
    if node.vr is not None:
        return node.vr
    if node.tag >> 16 & 1:
        return otherwise
    try:
        vr = str(dictionary_VR(node.tag))
    except KeyError:
        return "UN"
    if " or " not in vr:
        return vr
    if node.tag == PIXEL_DATA:
        return "OW" if wide else "OB"
    if "OW" in vr and ("US" not in vr or node.value_end - node.value_at > 2):  # one number alone is no table
        return "OW"
    return "SS" if signed and "SS" in vr else "US"


def turned_round(value: bytes, vr: str, tag: int) -> bytes:
    """Return a big-endian value little-endian (PS3.5 §7.3); raise `CannotTranscode` when nobody knows how."""
    if vr == "UN" and value:
        raise CannotTranscode(f"it is big endian, and {named(tag)} has the VR UN, so its byte order is not known")
    size = WORDS.get(vr, 1)
    if len(value) % size:
        raise CannotTranscode(f"{named(tag)} has {len(value)} bytes, which its VR {vr} does not allow")
    return value if size == 1 else numpy.frombuffer(value, f">u{size}").astype(f"<u{size}").tobytes()


def _number(source: Structure, nodes: Nodes, tag: int) -> int | None:
    for node in nodes:
        if node.tag == tag and node.value_end - node.value_at >= 2:
            return int.from_bytes(source.value(node)[:2], "little" if source.little else "big")
    return None
