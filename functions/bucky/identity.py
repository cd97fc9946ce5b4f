"""Who an instance is: the four UIDs that name it, read from its encoded data set bytes (PS3.5 §7).

The reader takes the data set as it comes, in pieces of any size, and keeps none of it but an element's
header or UID that a piece cuts in two. It walks elements in a loop, never by recursion, and decodes nothing
but those UIDs: hostile nesting, lengths and deflate bombs end in `InvalidInstance`, not in exhaustion.
"""

import re
import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

from bucky.errors import InvalidInstance
from bucky.uids import checked_uid

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
PAPYRUS_3_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.20"
IMPLICIT = frozenset({IMPLICIT_VR_LITTLE_ENDIAN, PAPYRUS_3_IMPLICIT_VR_LITTLE_ENDIAN})
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
_GROUP_8_UIDS = frozenset({_SOP_CLASS & 0xFFFF, _SOP_INSTANCE & 0xFFFF})
_LAST_GROUP = _STUDY >> 16
# An explicit VR element's header, an implicit one's, and a length of 32 bits.
_LITTLE_ENDIAN = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")
_BIG_ENDIAN = struct.Struct(">HH2sH"), struct.Struct(">HHI"), struct.Struct(">I")
# A header's elements before the last UID; one of more is walked each time.
_LONGEST_LAYOUT = 500
_LAYOUTS = 4
_NO_VR = "the data set is not in its transfer syntax: an element has no VR"


class Identity(NamedTuple):
    """The UIDs of one instance, each checked."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


def read_identity(data_set: bytes | memoryview, transfer_syntax_uid: str) -> Identity:
    """Return the identity in an encoded data set; the bytes after it are not looked at.

    Raises `InvalidInstance` when a UID is missing or invalid, or the bytes are not in that transfer syntax.
    """
    reader = IdentityReader(transfer_syntax_uid)
    reader.feed(memoryview(data_set))
    return reader.identity()


class IdentityReader:
    """Reads the identity of a data set that arrives in pieces.

    `feed` until it says that it has seen enough, or the data set ends; then ask for the `identity`.
    `layouts` may be shared with the readers of data sets that are likely to be laid out alike.
    """

    def __init__(self, transfer_syntax_uid: str, layouts: "Layouts | None" = None) -> None:
        self._transfer_syntax_uid = transfer_syntax_uid
        self._layouts = layouts
        self._values: tuple[bytes, ...] | None = None
        self._walk: _Walk | None = None
        self._inflater: zlib._Decompress | None = None
        self._inflated = 0
        self._failure: InvalidInstance | None = None

    def feed(self, piece: memoryview) -> bool:
        """Take the next piece; return whether more would change nothing. Never raises."""
        if self._values is not None or self._failure is not None:
            return True
        if self._walk is None:
            if self._layouts is not None and (values := self._layouts.values(piece)) is not None:
                self._values = values
                return True
            return self._begin_to_walk(piece)
        return self._walk_on(self._walk, piece)

    def identity(self) -> Identity:
        """Return the identity, once all pieces were fed or enough; raise `InvalidInstance` if there is none."""
        if self._failure is not None:
            raise self._failure
        values = self._values
        if values is None:
            values = _Walk.of(self._transfer_syntax_uid).values() if self._walk is None else self._walk.values()
        return Identity(*map(_uid, values, _KEYWORDS.values()))

    def _begin_to_walk(self, piece: memoryview) -> bool:
        self._walk = walk = _Walk.of(self._transfer_syntax_uid)
        if self._transfer_syntax_uid in DEFLATED:
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        enough = self._walk_on(walk, piece)
        if enough and self._layouts is not None and self._inflater is None and self._failure is None:
            self._layouts.missed(self._transfer_syntax_uid, piece)
        return enough

    def _walk_on(self, walk: "_Walk", piece: memoryview) -> bool:
        if not walk.over:
            try:
                walk.feed(piece if self._inflater is None else self._inflate(piece))
            except InvalidInstance as failure:
                self._failure = failure
        return self._failure is not None or walk.over

    def _inflate(self, piece: memoryview) -> memoryview:
        """Inflate at most 1 MiB in all (PS3.5 §A.5); the header is far smaller, a bomb is far larger."""
        if self._inflater is None or self._inflated >= INFLATED_BYTES:
            raise InvalidInstance("the first MiB of the inflated data set does not hold its UIDs")
        try:
            inflated = self._inflater.decompress(piece, INFLATED_BYTES - self._inflated)
        except zlib.error as error:
            raise InvalidInstance("the data set is not deflated as its transfer syntax says (PS3.5 §A.5)") from error
        self._inflated += len(inflated)
        return memoryview(inflated)


class Layouts:
    """How headers seen before were laid out: the instances of a series mostly differ in values, not in lengths.

    A layout is all element headers up to the last UID, with the length of each value. Bytes that have the same
    headers at the same places are walked the same way, so their UIDs are at the same places: one match tells.
    """

    def __init__(self) -> None:
        self._known: list[re.Pattern[bytes]] = []
        self._misses = 0

    def values(self, piece: memoryview) -> tuple[bytes, ...] | None:
        """Return the values of the UIDs in a data set's first piece, or None when its layout is not known."""
        for layout in self._known:
            if match := layout.match(piece):
                return match.groups()
        return None

    def missed(self, transfer_syntax_uid: str, piece: memoryview) -> None:
        """Learn the layout of a piece that had to be walked: of ever fewer of them, for to learn one is dear."""
        self._misses += 1
        if self._misses > 1 and self._misses & (self._misses - 1) == 0:
            layout = _Walk.of(transfer_syntax_uid).layout(piece)
            if layout is not None:
                self._known = [layout, *self._known[: _LAYOUTS - 1]]


@lru_cache(maxsize=4096)
def _uid(value: bytes, keyword: str) -> str:
    return checked_uid(value.decode("ascii", "replace").rstrip("\0 "), keyword)


class _Walk:
    """One pass over the elements of a data set, from its first byte to Series Instance UID."""

    def __init__(self, *, implicit: bool, big_endian: bool) -> None:
        self._explicit_header, self._implicit_header, self._long = _BIG_ENDIAN if big_endian else _LITTLE_ENDIAN
        self._implicit = implicit
        self._found: dict[int, bytes] = {}
        # One entry per open level: whether it is a sequence (else an item), and whether it is implicit VR.
        self._levels: list[tuple[bool, bool]] = []
        self._skip = 0
        self._rest = b""
        self._budget = MAX_ELEMENTS
        self.over = False

    @classmethod
    def of(cls, transfer_syntax_uid: str) -> "_Walk":
        """Return a walk over a data set in a transfer syntax."""
        return cls(
            implicit=transfer_syntax_uid in IMPLICIT,
            big_endian=transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
        )

    def values(self) -> tuple[bytes, ...]:
        """Return the values of the wanted tags, empty where there is none; elements come in ascending order (§7.1)."""
        if self._skip:
            raise InvalidInstance("the data set ends inside an element's value")
        if self._rest or self._levels:
            raise InvalidInstance("the data set ends inside an element's header")
        return tuple(self._found.get(tag, b"") for tag in _KEYWORDS)

    def layout(self, piece: memoryview) -> re.Pattern[bytes] | None:
        """Return the layout of a data set by its first piece, unless it is long, nested or out of order."""
        at, pattern, wanted = 0, b"", list(_KEYWORDS)
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
        end, at, before = len(content), 0, -1
        # Each step gets further, or the rest is less than an element.
        while not self.over and at != before:
            before = at
            at = self._nested(content, at) if self._levels else self._flat(content, at)
        self._rest = b"" if self.over else bytes(content[at:])
        self._skip = 0 if self.over else max(0, at - end)

    def _flat(self, content: memoryview, at: int) -> int:
        """Walk over elements outside sequences until something opens, is cut or is over; return where that is."""
        while (header := self._header(content, at := self._skim(content, at))) is not None:
            tag, vr, length, start = header
            if tag > _SERIES:
                self.over = True
                return at
            if length == _UNDEFINED:
                # UN of undefined length holds implicit VR (PS3.5 §6.2.2).
                self._levels.append((True, self._implicit or vr == b"UN"))
                return start
            if tag in _KEYWORDS and length <= _LONGEST_UID:
                if start + length > len(content):
                    return at
                self._keep(tag, bytes(content[start : start + length]))
                if self.over:
                    return start
            at = start + length
        return at

    def _keep(self, tag: int, value: bytes) -> None:
        self._found[tag] = value
        self.over = len(self._found) == len(_KEYWORDS)

    def _skim(self, content: memoryview, at: int) -> int:
        """Step over explicit elements with nothing special about them: most of a header, so done the short way."""
        if self._implicit:
            return at
        last, steps, unpack = len(content) - 8, 0, self._explicit_header.unpack_from
        while at <= last:
            group, element, vr, length = unpack(content, at)
            if vr not in _SHORT_VRS or group >= _LAST_GROUP or (element in _GROUP_8_UIDS and group == 0x0008):
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
        self._levels.append((False, implicit) if in_sequence else (True, implicit or vr == b"UN"))
        return start

    def _header(self, content: memoryview, at: int) -> tuple[int, bytes, int, int] | None:
        """Return an element's tag, VR (empty if implicit), length and where its value starts; None if cut."""
        left = len(content) - at
        if left < 8:
            return None
        self._budget -= 1
        if self._budget < 0:
            raise InvalidInstance(f"the header has more than {MAX_ELEMENTS} elements before its UIDs")
        if self._levels[-1][1] if self._levels else self._implicit:
            group, element, length = self._implicit_header.unpack_from(content, at)
            return group << 16 | element, b"", length, at + 8
        group, element, vr, length = self._explicit_header.unpack_from(content, at)
        if vr in _SHORT_VRS:
            return group << 16 | element, vr, length, at + 8
        if group == 0xFFFE:
            return group << 16 | element, b"", self._long.unpack_from(content, at + 4)[0], at + 8
        if not (vr.isalpha() and vr.isupper()):
            raise InvalidInstance(_NO_VR)
        if left < 12:
            return None
        return group << 16 | element, vr, self._long.unpack_from(content, at + 8)[0], at + 12
