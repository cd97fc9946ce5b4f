"""Reading all of a data set: every element to its last byte, nested ones and fragments too (PS3.5 §7, §A.4).

`elements.py` reads as much of a header as can be read. This reads everything or says where it cannot: whoever
makes a copy must have read what it copies. Values stay where they are.
"""

import struct
from typing import NamedTuple, NoReturn

from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from bucky.dicom.element_vr import dictionary_vr
from bucky.dicom.pixel_length import named
from bucky.dicom.source import MalformedDataSet, Source

MAX_ELEMENTS = 500_000
MAX_DEPTH = 48
_LONG = frozenset(str(vr) for vr in EXPLICIT_VR_LENGTH_32)
_KNOWN = _LONG | frozenset(str(vr) for vr in EXPLICIT_VR_LENGTH_16)
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITING = frozenset((_ITEM, _ITEM_END, _SEQUENCE_END))
_PIXEL_DATA = 0x7FE00010
_FOREIGN_GROUPS = frozenset((0x0000, 0x0002))
_CHUNK_BYTES = 1024 * 1024


class Node(NamedTuple):
    """One element: its value is from `value_at` to `value_end`, and is `items`, `fragments` or neither."""

    tag: int
    vr: str | None
    value_at: int
    value_end: int
    end: int
    items: "tuple[Nodes, ...] | None" = None
    fragments: tuple[tuple[int, int], ...] | None = None


Nodes = tuple[Node, ...]


def belongs(tag: int) -> bool:
    """Tell whether an element belongs to a data set: the lengths of groups, commands and file meta do not."""
    return bool(tag & 0xFFFF) and tag >> 16 not in _FOREIGN_GROUPS


class Structure:
    """A data set in a source, from `start` on; offsets in messages are from there."""

    def __init__(self, source: Source, start: int, *, implicit: bool, little: bool) -> None:
        self._source = source
        self._start = start
        self._order = "<" if little else ">"
        self._elements = 0
        size = source.size()
        if size is None:
            raise MalformedDataSet("the end of the data set is not known")
        self._size = size
        self.little = little
        self.implicit = self._looks_implicit(start, otherwise=implicit)

    def nodes(self) -> Nodes:
        """Return the elements outside sequences; raise `MalformedDataSet` that says what is wrong, and where."""
        found: list[Node] = []
        at = self._start
        while at < self._size and not self._only_zeros(at):
            node = self._element(at, self._size, None, 0, implicit=self.implicit)
            if node.tag in _DELIMITING:
                self._fail(at, "there is an item outside any sequence")
            found.append(node)
            at = node.end
        return tuple(found)

    def value(self, node: Node) -> bytes:
        """Return an element's value."""
        return self.between(node.value_at, node.value_end)

    def between(self, start: int, end: int) -> bytes:
        """Return the bytes of a part of a value."""
        return self._source.at(start, end - start)

    def items_in(self, node: Node) -> tuple[Nodes, ...]:
        """Return the items in a value that nothing says is a sequence; raise `MalformedDataSet` if it is none."""
        implicit = self.implicit or node.vr in {None, "UN"}
        return self._items(node.tag, node.value_at, node.value_end, 1, implicit=implicit)[0]

    def _element(self, at: int, end: int, inside: int | None, depth: int, *, implicit: bool) -> Node:
        """Read the element at a place; `end` is where what holds it ends, and `inside` the tag of the sequence."""
        self._elements += 1
        if self._elements > MAX_ELEMENTS:
            self._fail(at, f"there are more than {MAX_ELEMENTS} elements before")
        tag, vr, length, value_at = self._head(at, end, inside, implicit=implicit)
        if tag in _DELIMITING:
            return Node(tag, None, value_at, value_at, value_at)
        if length == _UNDEFINED:
            return self._of_undefined_length(tag, vr, at, value_at, end, depth)
        value_end = value_at + length
        if value_end > end:
            where = "the data set" if inside is None else f"the item of {named(inside)} that holds it"
            self._fail(at, f"{named(tag)} is {length} bytes long, and {where} ends after {end - value_at} of them")
        items = None
        if vr == "SQ" or (vr is None and dictionary_vr(tag) == "SQ"):
            items, _ = self._items(tag, value_at, value_end, depth + 1, implicit=implicit)
        return Node(tag, vr, value_at, value_end, value_end, items)

    def _head(self, at: int, end: int, inside: int | None, *, implicit: bool) -> tuple[int, str | None, int, int]:
        """Return tag, VR (None where there is none), length and where the value begins."""
        raw = self._source.at(at, min(12, end - at))
        if len(raw) < 8:
            where = "the data set" if inside is None else f"an item of {named(inside)}"
            self._fail(at, f"{where} ends within the first bytes of an element")
        group, number, length = struct.unpack_from(self._order + "HHI", raw)
        tag = group << 16 | number
        if implicit or group == 0xFFFE:
            return tag, None, length, at + 8
        vr = raw[4:6].decode("latin-1")
        if vr not in _KNOWN:
            shown = vr if vr.isprintable() and vr.isascii() else raw[4:6].hex()
            self._fail(at, f"{named(tag)} has the VR {shown!r}, which PS3.5 §6.2 does not know")
        if vr not in _LONG:
            return tag, vr, struct.unpack_from(self._order + "H", raw, 6)[0], at + 8
        if len(raw) < 12:
            self._fail(at, f"it ends within the first bytes of {named(tag)}")
        return tag, vr, struct.unpack_from(self._order + "I", raw, 8)[0], at + 12

    def _of_undefined_length(self, tag: int, vr: str | None, at: int, value_at: int, end: int, depth: int) -> Node:
        if vr not in {None, "SQ", "UN"} or tag == _PIXEL_DATA:
            if vr not in {None, "OB", "OW", "UN"}:
                self._fail(at, f"{named(tag)} has no length, which its VR {vr} does not allow")
            fragments, value_end = self._fragments(tag, value_at, end)
            return Node(tag, vr, value_at, value_end, value_end + 8, None, fragments)
        implicit = self.implicit or vr is None
        if vr == "UN":  # implicit VR inside (PS3.5 §6.2.2), though not everybody knows
            implicit = self._looks_implicit(value_at + 8, otherwise=True)
        items, value_end = self._items(tag, value_at, end, depth + 1, implicit=implicit, delimited=True)
        return Node(tag, vr, value_at, value_end, value_end + 8, items)

    def _items(
        self, tag: int, at: int, end: int, depth: int, *, implicit: bool, delimited: bool = False
    ) -> tuple[tuple[Nodes, ...], int]:
        """Read the items of a sequence up to its end or its delimiter; return where that is, too."""
        if depth > MAX_DEPTH:
            self._fail(at, f"{named(tag)} is nested more than {MAX_DEPTH} deep")
        items: list[Nodes] = []
        while delimited or at < end:
            item, _, length, value_at = self._head(at, end, tag, implicit=True)
            if delimited and item == _SEQUENCE_END:
                break
            if item != _ITEM:
                self._fail(at, f"{named(tag)} holds something that is not an item")
            if length != _UNDEFINED and value_at + length > end:
                self._fail(at, f"an item of {named(tag)} is {length} bytes long, and only {end - value_at} are there")
            item_end = end if length == _UNDEFINED else value_at + length
            nodes, at = self._item(tag, value_at, item_end, depth, implicit=implicit, delimited=length == _UNDEFINED)
            items.append(nodes)
        return tuple(items), at

    def _item(self, tag: int, at: int, end: int, depth: int, *, implicit: bool, delimited: bool) -> tuple[Nodes, int]:
        nodes: list[Node] = []
        while delimited or at < end:
            node = self._element(at, end, tag, depth, implicit=implicit)
            if delimited and node.tag == _ITEM_END:
                return tuple(nodes), node.end
            if node.tag in _DELIMITING:
                self._fail(at, f"an item of {named(tag)} holds the end of another")
            nodes.append(node)
            at = node.end
        return tuple(nodes), at

    def _fragments(self, tag: int, at: int, end: int) -> tuple[tuple[tuple[int, int], ...], int]:
        fragments: list[tuple[int, int]] = []
        while True:
            self._elements += 1
            item, _, length, value_at = self._head(at, end, tag, implicit=True)
            if item == _SEQUENCE_END:
                return tuple(fragments), at
            number = len(fragments)
            if item != _ITEM or length == _UNDEFINED:
                self._fail(at, f"{named(tag)} holds something else than a fragment after {number} of them")
            if value_at + length > end:
                self._fail(
                    at, f"fragment {number} of {named(tag)} is {length} bytes long, and only {end - value_at} are there"
                )
            fragments.append((value_at, value_at + length))
            at = value_at + length

    def _looks_implicit(self, at: int, *, otherwise: bool) -> bool:
        """Judge by the first element: not every data set is encoded as announced."""
        raw = self._source.at(at, 8)
        if len(raw) < 8 or raw[:2] in {b"\xfe\xff", b"\xff\xfe"}:
            return otherwise
        return raw[4:6].decode("latin-1") not in _KNOWN

    def _only_zeros(self, at: int) -> bool:
        """Return whether nothing but padding is left."""
        if self._source.at(at, 4).strip(b"\0"):
            return False
        while at < self._size:
            piece = self._source.at(at, min(_CHUNK_BYTES, self._size - at))
            if piece.strip(b"\0"):
                return False
            at += len(piece)
        return True

    def _fail(self, at: int, what: str) -> NoReturn:
        raise MalformedDataSet(f"{what} (at byte {at - self._start} of the data set)")
