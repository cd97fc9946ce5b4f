"""Who an instance is: the four UIDs that name it, read from its encoded data set bytes (PS3.5 §7).

The reader walks elements in a loop, never by recursion, and never decodes anything but those UIDs:
hostile nesting, lengths and deflate bombs end in `InvalidInstance`, not in exhaustion.
"""

import struct
import zlib
from dataclasses import dataclass

from bucky.errors import InvalidInstance
from bucky.uids import checked_uid

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
PAPYRUS_3_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.20"
DEFLATED = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    }
)
INFLATED_BYTES = 1024 * 1024
MAX_ELEMENTS = 250_000

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_KEYWORDS = {
    _SOP_CLASS: "SOPClassUID",
    _SOP_INSTANCE: "SOPInstanceUID",
    _STUDY: "StudyInstanceUID",
    _SERIES: "SeriesInstanceUID",
}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# Every other VR has a 32-bit length, and so will those yet to be invented (PS3.5 §6.2, §7.1.2).
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
# More than 64 characters is no UID; a longer value is not even read.
_LONGEST_UID = 66


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of one instance, each checked."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


def read_identity(data_set: bytes | memoryview, transfer_syntax_uid: str) -> Identity:
    """Return the identity in an encoded data set; the bytes after it are not looked at.

    Raises `InvalidInstance` when a UID is missing or invalid, or the bytes are not in that transfer syntax.
    """
    content = _inflated(data_set) if transfer_syntax_uid in DEFLATED else data_set
    walk = _Walk(
        memoryview(content),
        implicit=transfer_syntax_uid in {IMPLICIT_VR_LITTLE_ENDIAN, PAPYRUS_3_IMPLICIT_VR_LITTLE_ENDIAN},
        big_endian=transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
    )
    found = walk.wanted_values()
    return Identity(*(checked_uid(found.get(tag, ""), keyword) for tag, keyword in _KEYWORDS.items()))


def _inflated(data_set: bytes | memoryview) -> bytes:
    """Inflate at most 1 MiB (PS3.5 §A.5); the header is far smaller, a bomb is far larger."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, INFLATED_BYTES)
    except zlib.error as error:
        raise InvalidInstance("the data set is not deflated, as its transfer syntax says") from error


class _Walk:
    """One pass over the elements of a data set, from its first byte to Series Instance UID."""

    def __init__(self, content: memoryview, *, implicit: bool, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")
        self._content = content
        self._implicit = implicit
        self._at = 0
        self._budget = MAX_ELEMENTS

    def wanted_values(self) -> dict[int, str]:
        """Return the values of the wanted tags that are there; elements come in ascending order (§7.1)."""
        found: dict[int, str] = {}
        while self._at < len(self._content) and len(found) < len(_KEYWORDS):
            tag, vr, length = self._header(implicit=self._implicit)
            if tag > _SERIES:
                break
            if length == _UNDEFINED:
                self._skip_nested(inside_unknown=self._implicit or vr == b"UN")
                continue
            start = self._advance(length)
            if tag in _KEYWORDS and length <= _LONGEST_UID:
                value = bytes(self._content[start : start + length])
                found[tag] = value.decode("ascii", "replace").rstrip("\0 ")
        return found

    def _skip_nested(self, *, inside_unknown: bool) -> None:
        """Step over a value of undefined length, which may nest; UN holds implicit VR (PS3.5 §6.2.2)."""
        # One entry per open level: whether it is a sequence (else an item), and whether it is implicit VR.
        open_levels = [(True, inside_unknown)]
        while open_levels:
            in_sequence, implicit = open_levels[-1]
            tag, vr, length = self._header(implicit=implicit)
            if tag == (_SEQUENCE_END if in_sequence else _ITEM_END):
                open_levels.pop()
            elif in_sequence and tag != _ITEM:
                raise InvalidInstance("a sequence holds something that is not an item (PS3.5 §7.5)")
            elif length != _UNDEFINED:
                self._advance(length)
            elif in_sequence:
                open_levels.append((False, implicit))
            else:
                open_levels.append((True, implicit or vr == b"UN"))

    def _header(self, *, implicit: bool) -> tuple[int, bytes, int]:
        """Read one element's tag, VR (empty if implicit) and length; leave the position at its value."""
        self._budget -= 1
        if self._budget < 0:
            raise InvalidInstance(f"the header has more than {MAX_ELEMENTS} elements before its UIDs")
        try:
            return self._parsed_header(implicit)
        except struct.error as error:
            raise InvalidInstance("the data set ends inside an element's header") from error

    def _parsed_header(self, implicit: bool) -> tuple[int, bytes, int]:
        group, element = self._tag.unpack_from(self._content, self._at)
        tag = group << 16 | element
        if implicit or group == 0xFFFE:
            (length,) = self._long.unpack_from(self._content, self._at + 4)
            self._at += 8
            return tag, b"", length
        vr = bytes(self._content[self._at + 4 : self._at + 6])
        if not (vr.isalpha() and vr.isupper()):
            raise InvalidInstance("the data set is not in its transfer syntax: an element has no VR")
        if vr in _SHORT_VRS:
            (length,) = self._short.unpack_from(self._content, self._at + 6)
            self._at += 8
        else:
            (length,) = self._long.unpack_from(self._content, self._at + 8)
            self._at += 12
        return tag, vr, length

    def _advance(self, length: int) -> int:
        """Step over a value and return where it started."""
        start = self._at
        if start + length > len(self._content):
            raise InvalidInstance("the data set ends inside an element's value")
        self._at = start + length
        return start
