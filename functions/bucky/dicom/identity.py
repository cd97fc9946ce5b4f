"""Who an instance is: the four UIDs that name it, read from its encoded data set bytes (PS3.5 §7).

The reader takes the data set as it comes, in pieces of any size, and keeps none of it but an element's
header or UID that a piece cuts in two. It walks elements in a loop, never by recursion, and decodes nothing
but those UIDs: hostile nesting, lengths and deflate bombs end in `InvalidInstance`, not in exhaustion.
"""

import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from bucky.dicom.identity_walk import UID_KEYWORDS, IdentityWalk
from bucky.dicom.uids import checked_uid
from bucky.errors import InvalidInstance

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

# What is not under it is a vendor's own transfer syntax, whose data sets have explicit VRs or not.
_DICOM_ROOT = "1.2.840.10008."
_LAYOUTS = 4


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
        self._walk: IdentityWalk | None = None
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
            values = _walk_of(self._transfer_syntax_uid).values() if self._walk is None else self._walk.values()
        return Identity(*map(_uid, values, UID_KEYWORDS.values()))

    def _begin_to_walk(self, piece: memoryview) -> bool:
        self._walk = walk = _walk_of(self._transfer_syntax_uid)
        if self._transfer_syntax_uid in DEFLATED:
            self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        enough = self._walk_on(walk, piece)
        if enough and self._layouts is not None and self._inflater is None and self._failure is None:
            self._layouts.missed(self._transfer_syntax_uid, piece)
        return enough

    def _walk_on(self, walk: IdentityWalk, piece: memoryview) -> bool:
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
            layout = _walk_of(transfer_syntax_uid).layout(piece)
            if layout is not None:
                self._known = [layout, *self._known[: _LAYOUTS - 1]]


@lru_cache(maxsize=4096)
def _uid(value: bytes, keyword: str) -> str:
    return checked_uid(value.decode("ascii", "replace").strip("\0 "), keyword)


def _walk_of(transfer_syntax_uid: str) -> IdentityWalk:
    """Return a walk over a data set in a transfer syntax."""
    private = not transfer_syntax_uid.startswith(_DICOM_ROOT)
    return IdentityWalk(
        implicit=None if private else transfer_syntax_uid in IMPLICIT,
        big_endian=transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN,
    )
