"""Walking the data elements of a data set (PS3.5 §7) without decoding them.

pydicom reads what is cut short as if it were whole, and follows nesting until Python gives up. This walk
knows where every element ends, keeps what is small, skips what is bulky and stops before the pixels. It
uses no recursion, and its work is bounded whatever the bytes say.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from bucky.dicom.element import Element, PixelElement, Span
from bucky.dicom.pixel_length import PIXEL_DATA, PIXEL_TAGS
from bucky.dicom.source import MalformedDataSet, Source
from bucky.dicom.value_representations import KNOWN_VRS, LONG_VRS, is_long, lacks_vr, looks_implicit

MAX_VALUE_BYTES = 64 * 1024
MAX_SEQUENCE_BYTES = 1024 * 1024
MAX_STEPS = 500_000

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_NESTING = frozenset((_ITEM, _ITEM_END, _SEQUENCE_END))
_NESTING_VRS = frozenset((None, "SQ", "UN"))
# What an element of these VRs begins with, and that a glance tells where it ends.
_GLANCED: dict[bytes, tuple[str, bool]] = {vr: (vr.decode(), vr in LONG_VRS) for vr in KNOWN_VRS - {b"SQ", b"UN"}}
_WINDOW_BYTES = 64 * 1024
_HEAD_BYTES = 12
_FRAGMENTS_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_PIXELS = 0x7FE00000  # everything from here on is pixels, or padding and signatures after them


class _Head(NamedTuple):
    tag: int
    vr: bytes | None
    length: int
    value_at: int


class HeaderWalk:
    """One walk over a data set that begins at `start` of a source."""

    def __init__(self, source: Source, start: int, *, implicit: bool, little: bool) -> None:
        self._source = source
        self._at = start
        self._little = little
        self._head = struct.Struct("<HHI" if little else ">HHI").unpack_from
        self._short = struct.Struct("<H" if little else ">H").unpack_from
        self._long = struct.Struct("<I" if little else ">I").unpack_from
        self._steps = 0
        self._pixels: _Head | None = None
        self._has_pixels = False
        self.implicit = self._looks_implicit(start, otherwise=implicit)

    @property
    def at(self) -> int:
        """Where the walk has come to: at its end, where the pixels begin, or the data set ends."""
        return self._at

    @property
    def has_pixels(self) -> bool:
        """Whether the walk has come to pixels."""
        return self._has_pixels

    def elements(self) -> Iterator[Element]:
        """Yield the elements before the pixels; raise `MalformedDataSet` where it cannot go on."""
        while True:
            yield from self._glanced_at()
            head = self._next_head()
            if head is None:
                return
            vr, end, implicit = self._past(head)
            length = end - head.value_at
            if length <= (MAX_SEQUENCE_BYTES if vr in _NESTING_VRS else MAX_VALUE_BYTES):
                yield Element(head.tag, vr, self._read(head.value_at, length), implicit)

    def spans(self) -> Iterator[Span]:
        """Yield where each element before the pixels stands, bulky ones too; raise `MalformedDataSet`."""
        for head in self._heads():
            start = self._at
            vr, end, implicit = self._past(head)
            yield Span(head.tag, vr, start, head.value_at, end, self._at, implicit)

    def pixels(self) -> PixelElement | None:
        """Go on to the pixels, past their offset tables, and return them, or None when there are none.

        Raises `MalformedDataSet` when the data set ends within them.
        """
        head = self._pixels
        while head is not None and head.tag < PIXEL_DATA and head.tag not in PIXEL_TAGS:
            self._past(head)
            self._pixels = None
            self._next_head()
            head = self._pixels
        if head is None or head.tag not in PIXEL_TAGS:
            return None
        if head.length != _UNDEFINED:
            return PixelElement(head.tag, head.value_at, head.length)
        self._check_fragments(head)
        return PixelElement(head.tag, head.value_at, None)

    def _check_fragments(self, head: _Head) -> None:
        size = self._source.size()
        if head.vr not in {b"OB", b"OW"} or size is None:
            return
        offsets = self._read_head(head.value_at, implicit=True)
        if offsets.tag == _ITEM and offsets.length != _UNDEFINED:
            first = self._read_head(offsets.value_at + offsets.length, implicit=True)
            if first.tag == _SEQUENCE_END:
                raise MalformedDataSet("(7FE0,0010) PixelData has no fragments, and no frame without them")
        if self._source.at(size - len(_FRAGMENTS_END), len(_FRAGMENTS_END)) != _FRAGMENTS_END:
            self._past(head)  # more elements may follow them

    def _glanced_at(self) -> Iterator[Element]:
        """Go past the elements that are as nearly all are, and at hand: explicit VR, small, of known length.

        Whatever is not, up to the end of what is at hand, is left to the steps that look at everything.
        """
        if self.implicit:
            return
        here, at = self._source.at_hand(self._at), 0
        head, short, long, most = self._head, self._short, self._long, len(here)
        while at + _HEAD_BYTES <= most:
            known = _GLANCED.get(here[at + 4 : at + 6])
            if known is None or self._steps >= MAX_STEPS:
                break
            vr, is_long = known
            group, number, _ = head(here, at)
            value_at, length = (at + 12, long(here, at + 8)[0]) if is_long else (at + 8, short(here, at + 6)[0])
            end = value_at + length
            tag = group << 16 | number
            if end > most or length > MAX_VALUE_BYTES or tag >= _PIXELS or group == 0xFFFE:
                break
            self._steps += 1
            self._at += end - at
            yield Element(tag, vr, here[value_at:end], False)
            at = end

    def _heads(self) -> Iterator[_Head]:
        """Yield the head of each element before the pixels; whoever takes it goes past it."""
        while (head := self._next_head()) is not None:
            yield head

    def _next_head(self) -> _Head | None:
        """Return the head of the next element, or None where the pixels begin or the data set ends."""
        raw = self._source.at(self._at, _HEAD_BYTES)
        if not raw[:8].strip(b"\0"):
            raw = self._past_zeros()
            if not raw:
                return None
        head = self._parsed_head(raw, self._at, implicit=self.implicit)
        if head.tag in _NESTING:
            raise MalformedDataSet(f"there is an item outside any sequence at byte {self._at}")
        if head.tag >= _PIXELS:
            self._pixels, self._has_pixels = head, True
            self._check_ends(head)
            return None
        return head

    def _past_zeros(self) -> bytes:
        """Go past padding, which some put after a data set; return what begins the next element, nothing at the end."""
        while window := self._source.at(self._at, _WINDOW_BYTES):
            zeros = len(window) - len(window.lstrip(b"\0"))
            if zeros < len(window):
                # An element's tag may begin with zeros itself: those of padding come in eights.
                self._at += zeros // 8 * 8
                return self._source.at(self._at, _HEAD_BYTES)
            self._at += len(window)
        return b""

    def _past(self, head: _Head) -> tuple[str | None, int, bool]:
        """Go past an element; return its VR, where its value ends, and whether that is in implicit VR."""
        vr = None if head.vr is None else head.vr.decode() if head.vr in KNOWN_VRS else "UN"
        implicit = self.implicit or vr is None
        if head.length == _UNDEFINED:
            if head.vr == b"UN":  # implicit VR inside (PS3.5 §6.2.2), though not everybody knows
                implicit = self._first_is_implicit(head.value_at + 8)
            end = self._past_undefined(head, implicit=self.implicit)
            return "SQ" if vr in {None, "UN"} else vr, end, implicit
        self._check_ends(head)
        end = self._at = head.value_at + head.length
        return vr, end, implicit

    def _past_undefined(self, head: _Head, *, implicit: bool) -> int:
        """Go past a value of undefined length; return where its items end (PS3.5 §7.5)."""
        # Of each level, whether it is of items (else of elements) and whether it is in implicit VR; items of UN tell by
        # themselves (None). Fragments are items nobody looks into.
        levels: list[tuple[bool, bool | None]] = [(True, _inside(head, implicit=implicit))]
        fragments = _has_fragments(head)
        self._at = head.value_at
        while True:
            here = self._at
            of_items, in_implicit = levels[-1]
            inner = self._read_head(here, implicit=of_items or bool(in_implicit))
            self._at = inner.value_at
            if of_items:
                if inner.tag == _SEQUENCE_END:
                    # Delimiters have no value, whatever their length says (PS3.5 §7.5.1).
                    levels.pop()
                    if not levels:
                        return here
                    fragments = False
                    continue
                if inner.tag != _ITEM:
                    raise MalformedDataSet(f"the items of a sequence are out of step at byte {here}")
                if inner.length == _UNDEFINED and not fragments:
                    tells = self._first_is_implicit(self._at) if in_implicit is None else in_implicit
                    levels.append((False, tells))
            elif inner.tag == _ITEM_END:
                levels.pop()
                continue
            elif inner.length == _UNDEFINED:
                fragments = _has_fragments(inner)
                levels.append((True, _inside(inner, implicit=bool(in_implicit))))
            if inner.length != _UNDEFINED:
                self._at += inner.length

    def _read_head(self, at: int, *, implicit: bool) -> _Head:
        return self._parsed_head(self._source.at(at, _HEAD_BYTES), at, implicit=implicit)

    def _parsed_head(self, raw: bytes, at: int, *, implicit: bool) -> _Head:
        """Parse the head in the first 8 or 12 of the bytes at a place."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise MalformedDataSet(f"the data set has more than {MAX_STEPS} elements before its pixels")
        if len(raw) < 8:
            raise _cut_short(at + len(raw))
        group, number, length = self._head(raw)
        tag = group << 16 | number
        if implicit or group == 0xFFFE:
            return _Head(tag, None, length, at + 8)
        vr = raw[4:6]
        if is_long(vr):
            if len(raw) < _HEAD_BYTES:
                raise _cut_short(at + len(raw))
            return _Head(tag, vr, self._long(raw, 8)[0], at + 12)
        (short_length,) = self._short(raw, 6)
        if lacks_vr(vr, short_length):
            return _Head(tag, None, length, at + 8)
        return _Head(tag, vr, short_length, at + 8)

    def _looks_implicit(self, at: int, *, otherwise: bool) -> bool:
        """Judge by the first element: not every data set is encoded as announced."""
        while len(raw := self._source.at(at, 8)) == 8:
            if otherwise:
                return raw[4:6] not in KNOWN_VRS
            looks = looks_implicit(raw)
            if looks is not None:
                return looks
            at += 8
        return otherwise

    def _first_is_implicit(self, at: int) -> bool:
        """Judge an item of VR UN, which should be in implicit VR, by its first element."""
        raw = self._source.at(at, 8)
        return len(raw) < 8 or raw[4:6] not in KNOWN_VRS

    def _read(self, at: int, length: int) -> bytes:
        raw = self._source.at(at, length)
        if len(raw) < length:
            raise _cut_short(at + len(raw))
        return raw

    def _check_ends(self, head: _Head) -> None:
        size = self._source.size()
        if head.length != _UNDEFINED and size is not None and head.value_at + head.length > size:
            name = f"({head.tag >> 16:04X},{head.tag & 0xFFFF:04X})"
            raise MalformedDataSet(f"the data set is cut short: it ends within {name}")


def _inside(head: _Head, *, implicit: bool) -> bool | None:
    """Return whether a sequence is in implicit VR, or None where each of its items tells (PS3.5 §6.2.2)."""
    return None if head.vr == b"UN" and not implicit else implicit or head.vr is None


def _has_fragments(head: _Head) -> bool:
    """Tell whether a value of undefined length is in fragments, which hold no elements (PS3.5 §A.4)."""
    return head.vr in KNOWN_VRS and head.vr not in {b"SQ", b"UN"}


def _cut_short(at: int) -> MalformedDataSet:
    return MalformedDataSet(f"the data set is cut short: it ends at byte {at}, within an element")
