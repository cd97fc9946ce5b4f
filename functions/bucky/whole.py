"""Whether a data set is whole: read to its last byte, with as many pixels as its header says (PS3.5 §8).

What is damaged is kept, shown as damaged, and sent as it came or not at all. Nothing is made of it.
"""

import struct
from collections.abc import Iterable

from pydicom.uid import UID

from bucky.elements import MalformedDataSet, Source
from bucky.header import encoding_of
from bucky.structure import Node, Nodes, Structure, named

PIXEL_DATA = 0x7FE00010
_FLOAT_PIXELS = {0x7FE00008: 32, 0x7FE00009: 64}
_PROVIDER_URL = 0x00287FE0
_SOP_CLASS, _FRAMES, _PHOTOMETRIC = 0x00080016, 0x00280008, 0x00280004
_SAMPLES, _ROWS, _COLUMNS, _BITS_ALLOCATED = 0x00280002, 0x00280010, 0x00280011, 0x00280100
# Samples for each pixel where colours are sampled for two or four pixels at once (PS3.3 §C.7.6.3.1.2).
_SUBSAMPLED = {"YBR_FULL_422": 2.0, "YBR_PARTIAL_422": 2.0, "YBR_PARTIAL_420": 1.5}
_VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4 and HEVC: frames share fragments


class WholeDataSet:
    """A data set that was read to its last byte; `nodes` are its elements, `structure` reads their values."""

    def __init__(self, structure: Structure, nodes: Nodes) -> None:
        self.structure = structure
        self.nodes = nodes
        self.by_tag = {node.tag: node for node in nodes}

    def number(self, tag: int) -> int | None:
        """Return a number of 16 bits (US), or None."""
        value = self._value(tag)
        return struct.unpack("<H" if self.structure.little else ">H", value[:2])[0] if len(value) >= 2 else None

    def text(self, tag: int) -> str:
        """Return a text without its padding."""
        return self._value(tag).decode("ascii", "replace").strip(" \0")

    @property
    def frames(self) -> int:
        """How many frames there are to be."""
        text = self.text(_FRAMES).partition("\\")[0].strip()
        return max(int(text), 1) if text.isdecimal() else 1

    def _value(self, tag: int) -> bytes:
        node = self.by_tag.get(tag)
        return b"" if node is None else self.structure.value(node)


def whole(source: Source, start: int, transfer_syntax_uid: str) -> WholeDataSet:
    """Read a data set that is not deflated from its first byte to its last.

    Raises `MalformedDataSet` with a sentence that names the element, and the byte where it can.
    """
    implicit, little = encoding_of(transfer_syntax_uid)
    structure = Structure(source, start, implicit=implicit, little=little)
    found = WholeDataSet(structure, structure.nodes())
    problem = missing_pixels(found, transfer_syntax_uid)
    if problem:
        raise MalformedDataSet(problem)
    return found


def missing_pixels(data_set: WholeDataSet, transfer_syntax_uid: str) -> str | None:
    """Return what is missing of the pixels that a data set says it has, in words."""
    pixels = _pixels(data_set.nodes)
    if pixels is None:
        return _without_pixels(data_set)
    if unsaid(data_set):
        return None  # how many there are to be, nobody knows
    if pixels.fragments is not None:
        return _without_frames(data_set, pixels.fragments, transfer_syntax_uid)
    expected, there = _pixel_bytes(data_set, pixels.tag), pixels.value_end - pixels.value_at
    if there >= expected:
        return None
    return f"{named(pixels.tag)} has {there} of the {expected} bytes that its header calls for"


def unsaid(data_set: WholeDataSet) -> str:
    """Return, in words, what a data set does not say of how many pixels it has; nothing when it says all."""
    numbers = (_ROWS, _COLUMNS, _BITS_ALLOCATED)
    return ", ".join(named(tag) for tag in numbers if data_set.number(tag) is None)


def _pixels(nodes: Iterable[Node]) -> Node | None:
    return next((node for node in nodes if node.tag == PIXEL_DATA or node.tag in _FLOAT_PIXELS), None)


def _without_pixels(data_set: WholeDataSet) -> str | None:
    sop_class = UID(data_set.text(_SOP_CLASS)).name
    if _PROVIDER_URL in data_set.by_tag or not (data_set.number(_ROWS) or " Image Storage" in sop_class):
        return None
    return f"it is an image ({sop_class}) without {named(PIXEL_DATA)}"


def _without_frames(data_set: WholeDataSet, fragments: tuple[tuple[int, int], ...], syntax: str) -> str | None:
    filled = sum(1 for start, end in fragments[1:] if end > start)
    wanted = 1 if UID(syntax).startswith(_VIDEO) else data_set.frames
    if filled >= wanted:
        return None
    return f"{named(PIXEL_DATA)} has {filled} fragments, and its header calls for {data_set.frames} frames"


def _pixel_bytes(data_set: WholeDataSet, tag: int) -> int:
    rows, columns = data_set.number(_ROWS) or 0, data_set.number(_COLUMNS) or 0
    bits = _FLOAT_PIXELS.get(tag) or data_set.number(_BITS_ALLOCATED) or 0
    samples = _SUBSAMPLED.get(data_set.text(_PHOTOMETRIC)) or data_set.number(_SAMPLES) or 1
    return -(-int(rows * columns * data_set.frames * samples * bits) // 8)
