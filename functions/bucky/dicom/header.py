"""A data set's header: its elements up to the pixels, read from any source of bytes."""

import struct
import zlib
from collections.abc import Iterable, Iterator

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.element import Element
from bucky.dicom.elements import HeaderWalk
from bucky.dicom.identity import DEFLATED, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT
from bucky.dicom.json_model import quietly
from bucky.dicom.pixel_length import too_few, without_pixels
from bucky.dicom.source import MalformedDataSet, Source

INFLATED_AT_ONCE_BYTES = 64 * 1024
MAX_INFLATED_BYTES = 16 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_FOLLOWED_BYTES = 256 * 1024 * 1024
"""Of deflated pixels, which are inflated to see whether they end."""
_SPECIFIC_CHARACTER_SET = 0x00080005


def read_data_set(source: Source, start: int, transfer_syntax_uid: str) -> tuple[Dataset, str | None]:
    """Read a data set up to its pixels; return it with what kept it from being read further, or misses of them."""
    implicit, little = encoding_of(transfer_syntax_uid)
    deflated = _InflatedBytes(source, start) if transfer_syntax_uid in DEFLATED else None
    if deflated is not None:
        source, start = deflated, 0
    elements: list[Element] = []
    problem = None
    try:
        walk = HeaderWalk(source, start, implicit=implicit, little=little)
        implicit = walk.implicit
        for element in _bounded(walk):
            elements.append(element)
        pixels = walk.pixels()
        header = _Described(elements, little=little)
        if pixels is None:
            problem = without_pixels(header)
        elif pixels.length is not None:
            if deflated is not None:
                deflated.check_reaches(pixels.value_at + pixels.length)
            problem = too_few(header, pixels.tag, pixels.length, transfer_syntax_uid)
    except Scattered as error:
        problem = None if walk.has_pixels else str(error)
    except MalformedDataSet as error:
        problem = str(error)
    return data_set_of(elements, implicit=implicit, little=little), problem


def encoding_of(transfer_syntax_uid: str) -> tuple[bool, bool]:
    """Return whether a transfer syntax is in implicit VR, and whether it is little endian (PS3.5 Annex A).

    Of a vendor's own nobody knows: a `HeaderWalk` looks at the data set itself.
    """
    return transfer_syntax_uid in IMPLICIT, transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN


def data_set_of(elements: Iterable[Element], *, implicit: bool, little: bool) -> Dataset:
    """Return a data set of undecoded elements, which pydicom decodes when they are asked for."""
    raw: dict[BaseTag, DataElement | RawDataElement] = {}
    character_set = b""
    for element in elements:
        tag = BaseTag(element.tag)
        value = element.value or _empty(element.vr)
        raw[tag] = RawDataElement(tag, element.vr, len(element.value), value, 0, element.implicit, little)
        if tag == _SPECIFIC_CHARACTER_SET:
            character_set = element.value
    dataset = Dataset(raw)
    dataset.set_original_encoding(implicit, little, _encodings(character_set))
    return dataset


def _bounded(walk: HeaderWalk) -> Iterator[Element]:
    """Yield a walk's elements while they make a header of reasonable size."""
    kept = 0
    for element in walk.elements():
        kept += len(element.value)
        if kept > MAX_HEADER_BYTES:
            raise MalformedDataSet(f"the header is larger than {MAX_HEADER_BYTES} bytes")
        yield element


def _empty(vr: str | None) -> bytes | None:
    """Return what pydicom takes for an empty value."""
    empty = empty_value_for_VR(vr, raw=True)
    return empty if isinstance(empty, bytes) else None


def _encodings(character_set: bytes) -> list[str]:
    """Return the codecs that Specific Character Set (0008,0005) names."""
    text = character_set[:1024].decode("ascii", "replace").replace("\0", "")  # codec names know no NUL
    names = [name.strip() for name in text.split("\\")]
    with quietly():
        return convert_encodings(names)


class _Described:
    """A walk's elements, asked for numbers and texts."""

    def __init__(self, elements: Iterable[Element], *, little: bool) -> None:
        self._values = {element.tag: element.value for element in elements}
        self._number = struct.Struct("<H" if little else ">H").unpack_from

    def number(self, tag: int) -> int | None:
        """Return a number of 16 bits (US), or None."""
        value = self._values.get(tag, b"")
        return int(self._number(value)[0]) if len(value) >= 2 else None

    def text(self, tag: int) -> str:
        """Return a text without its padding."""
        return self._values.get(tag, b"").decode("ascii", "replace").strip(" \0")

    def has(self, tag: int) -> bool:
        """Return whether an element is there."""
        return tag in self._values


class Scattered(MalformedDataSet):
    """Reading on would cost too much."""


class _InflatedBytes:
    """A deflated data set (PS3.5 §A.5), inflated as far as it is asked for, and never beyond a limit."""

    def __init__(self, stored: Source, start: int) -> None:
        self._stored = stored
        self._next = start
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._inflated = bytearray()

    def size(self) -> int | None:
        """Return the inflated size once the end is reached."""
        return len(self._inflated) if self._inflater.eof else None

    def at(self, offset: int, length: int) -> bytes:
        """Return inflated bytes."""
        while len(self._inflated) < offset + length and not self._inflater.eof:
            if len(self._inflated) >= MAX_INFLATED_BYTES:
                raise MalformedDataSet(f"the deflated header is larger than {MAX_INFLATED_BYTES} bytes")
            if not self._inflate():
                break
        return bytes(self._inflated[offset : offset + length])

    def at_hand(self, offset: int) -> bytes:
        """Return what is inflated already."""
        return bytes(self._inflated[offset:])

    def check_reaches(self, end: int) -> None:
        """Inflate up to a place, and keep nothing of it; raise `MalformedDataSet` when the stream ends before."""
        there = len(self._inflated)
        if end > MAX_FOLLOWED_BYTES:
            return
        while there < end and not self._inflater.eof:
            piece = self._next_piece()
            if piece is None:
                break
            there += len(piece)
        if there < end:
            raise MalformedDataSet("the data set is cut short: its deflated stream ends within its pixels")

    def _inflate(self) -> bool:
        """Inflate a little more; return whether there was anything to inflate."""
        piece = self._next_piece()
        self._inflated += piece or b""
        return piece is not None

    def _next_piece(self) -> bytes | None:
        """Return a little more, perhaps nothing; None when there is nothing left to inflate."""
        deflated = self._inflater.unconsumed_tail
        if not deflated:
            deflated = self._stored.at(self._next, INFLATED_AT_ONCE_BYTES)
            self._next += len(deflated)
        if not deflated:
            return None
        try:
            return self._inflater.decompress(deflated, INFLATED_AT_ONCE_BYTES * 8)
        except zlib.error as error:
            raise MalformedDataSet("the deflated data set is damaged") from error
