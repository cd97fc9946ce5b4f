"""One pass over the elements of a data set that arrives in pieces, to the UIDs that name it (PS3.5 §7)."""

import re
import struct

from bucky.dicom.value_representations import KNOWN_VRS, SHORT_VRS, is_long, lacks_vr, looks_implicit
from bucky.errors import InvalidInstance

MAX_ELEMENTS = 250_000

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E
UID_KEYWORDS = {
    _SOP_CLASS: "SOPClassUID",
    _SOP_INSTANCE: "SOPInstanceUID",
    _STUDY: "StudyInstanceUID",
    _SERIES: "SeriesInstanceUID",
}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
# More than 64 characters is no UID; a longer value is not even read.
_LONGEST_UID = 66
_GROUP_8_UIDS = frozenset({_SOP_CLASS & 0xFFFF, _SOP_INSTANCE & 0xFFFF})
_LAST_GROUP = _STUDY >> 16
# An explicit VR element's header, an implicit one's, and a length of 32 bits.
_LITTLE_ENDIAN = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")
_BIG_ENDIAN = struct.Struct(">HH2sH"), struct.Struct(">HHI"), struct.Struct(">I")
# A header's elements before the last UID; one of more is walked each time.
_LONGEST_LAYOUT = 500
_NO_VR = "the data set is not in its transfer syntax: an element has no VR"


class IdentityWalk:
    """One pass over the elements of a data set, from its first byte to Series Instance UID."""

    def __init__(self, *, implicit: bool | None, big_endian: bool) -> None:
        """Begin; `implicit` is None where the first element is to tell."""
        self._explicit_header, self._implicit_header, self._long = _BIG_ENDIAN if big_endian else _LITTLE_ENDIAN
        self._implicit = bool(implicit)
        self._undecided = implicit is None
        self._found: dict[int, bytes] = {}
        # One entry per open level: whether it is a sequence (else an item), and whether it is implicit VR. None is for
        # a sequence whose items tell by themselves.
        self._levels: list[tuple[bool, bool | None]] = []
        self._skip = 0
        self._rest = b""
        self._budget = MAX_ELEMENTS
        self.over = False

    def values(self) -> tuple[bytes, ...]:
        """Return the values of the wanted tags, empty where there is none; elements come in ascending order (§7.1)."""
        if self._skip:
            raise InvalidInstance("the data set ends inside an element's value")
        if self._rest or self._levels:
            raise InvalidInstance("the data set ends inside an element's header")
        return tuple(self._found.get(tag, b"") for tag in UID_KEYWORDS)

    def layout(self, piece: memoryview) -> re.Pattern[bytes] | None:
        """Return the layout of a data set by its first piece, unless it is long, nested or out of order."""
        if self._undecided and not self._decided(piece):
            return None
        at, pattern, wanted = 0, b"", list(UID_KEYWORDS)
        for _ in range(_LONGEST_LAYOUT):
            header = self._header(piece, at)
            if header is None:
                return None
            tag, _vr, length, start = header
            if length == _UNDEFINED or start + length > len(piece) or tag > wanted[0]:
                return None
            pattern += re.escape(bytes(piece[at:start]))
            if tag != wanted[0]:
                pattern += b".{%d}" % length
            elif length <= _LONGEST_UID:
                pattern += b"(.{%d})" % length
                wanted.pop(0)
                if not wanted:
                    return re.compile(pattern, re.DOTALL)
            else:
                return None
            at = start + length
        return None

    def feed(self, piece: memoryview) -> None:
        """Walk on through a piece, and remember where its last element ends."""
        if self._skip >= len(piece):
            self._skip -= len(piece)
            return
        content = piece[self._skip :]
        if self._rest:
            content = memoryview(self._rest + content)
        if self._undecided and not self._decided(content):
            self._rest = bytes(content)
            return
        end, at, before = len(content), 0, -1
        # Each step gets further, or the rest is less than an element.
        while not self.over and at != before:
            before = at
            at = self._nested(content, at) if self._levels else self._flat(content, at)
        self._rest = b"" if self.over else bytes(content[at:])
        self._skip = 0 if self.over else max(0, at - end)

    def _decided(self, content: memoryview) -> bool:
        """Look whether a data set is in implicit VR; return False when there is too little of it to tell."""
        at = 0
        while at + 8 <= len(content):
            looks = looks_implicit(bytes(content[at : at + 8]))
            if looks is not None:
                self._implicit, self._undecided = looks, False
                return True
            at += 8
        return False

    def _flat(self, content: memoryview, at: int) -> int:
        """Walk over elements outside sequences until something opens, is cut or is over; return where that is."""
        while (header := self._header(content, at := self._skim(content, at))) is not None:
            tag, vr, length, start = header
            if tag > _SERIES:
                self.over = True
                return at
            if length == _UNDEFINED:
                self._levels.append((True, _inside(vr, implicit=self._implicit)))
                return start
            if tag in UID_KEYWORDS and length <= _LONGEST_UID:
                if start + length > len(content):
                    return at
                self._keep(tag, bytes(content[start : start + length]))
                if self.over:
                    return start
            at = start + length
        return at

    def _keep(self, tag: int, value: bytes) -> None:
        self._found[tag] = value
        self.over = len(self._found) == len(UID_KEYWORDS)

    def _skim(self, content: memoryview, at: int) -> int:
        """Step over explicit elements with nothing special about them: most of a header, so done the short way."""
        if self._implicit:
            return at
        last, steps, unpack = len(content) - 8, 0, self._explicit_header.unpack_from
        while at <= last:
            group, element, vr, length = unpack(content, at)
            if vr not in SHORT_VRS or group >= _LAST_GROUP or (element in _GROUP_8_UIDS and group == 0x0008):
                break
            at += 8 + length
            steps += 1
        self._budget -= steps
        return at

    def _nested(self, content: memoryview, at: int) -> int:
        """Step over one element in a sequence or item of undefined length, or into or out of one."""
        header = self._header(content, at)
        if header is None:
            return at
        tag, vr, length, start = header
        in_sequence, implicit = self._levels[-1]
        if tag == (_SEQUENCE_END if in_sequence else _ITEM_END):
            self._levels.pop()
            return start
        if in_sequence and tag != _ITEM:
            raise InvalidInstance("a sequence holds something that is not an item (PS3.5 §7.5)")
        if length != _UNDEFINED:
            return start + length
        if not in_sequence:
            self._levels.append((True, _inside(vr, implicit=bool(implicit))))
        elif implicit is not None:
            self._levels.append((False, implicit))
        elif start + 8 > len(content):
            return at
        else:
            self._levels.append((False, bytes(content[start + 4 : start + 6]) not in KNOWN_VRS))
        return start

    def _header(self, content: memoryview, at: int) -> tuple[int, bytes, int, int] | None:
        """Return an element's tag, VR (empty if implicit), length and where its value starts; None if cut."""
        left = len(content) - at
        if left < 8:
            return None
        self._budget -= 1
        if self._budget < 0:
            raise InvalidInstance(f"the header has more than {MAX_ELEMENTS} elements before its UIDs")
        if (self._levels[-1][1] is not False) if self._levels else self._implicit:
            group, element, length = self._implicit_header.unpack_from(content, at)
            return group << 16 | element, b"", length, at + 8
        group, element, vr, length = self._explicit_header.unpack_from(content, at)
        if vr in SHORT_VRS:
            return group << 16 | element, vr, length, at + 8
        if group == 0xFFFE:
            return group << 16 | element, b"", self._long.unpack_from(content, at + 4)[0], at + 8
        if not is_long(vr):
            if lacks_vr(vr, length):
                raise InvalidInstance(_NO_VR)
            return group << 16 | element, vr, length, at + 8
        if left < 12:
            return None
        return group << 16 | element, vr, self._long.unpack_from(content, at + 8)[0], at + 12


def _inside(vr: bytes, *, implicit: bool) -> bool | None:
    """Return whether a sequence is in implicit VR: of VR UN it should be (PS3.5 §6.2.2), though not everybody knows."""
    return None if vr == b"UN" and not implicit else implicit
