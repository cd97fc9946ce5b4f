"""Whether a data set is whole: read to its last byte, with as many pixels as its header says (PS3.5 §8).

What is damaged is kept, shown as damaged, and sent as it came or not at all. Nothing is made of it.
"""

import struct
from collections.abc import Iterable

from pydicom.uid import UID

from bucky.dicom.header import encoding_of
from bucky.dicom.pixel_length import PIXEL_DATA, PIXEL_TAGS, frames, named, too_few, unsaid, without_pixels
from bucky.dicom.source import MalformedDataSet, Source
from bucky.dicom.structure import Node, Nodes, Structure

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

    def has(self, tag: int) -> bool:
        """Return whether an element is there."""
        return tag in self.by_tag

    @property
    def frames(self) -> int:
        """How many frames there are to be; `unsaid` tells whether anything says so."""
        return frames(self) or 1

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
        return without_pixels(data_set)
    if pixels.fragments is None:
        return too_few(data_set, pixels.tag, pixels.value_end - pixels.value_at, transfer_syntax_uid)
    return None if unsaid(data_set) else _without_frames(data_set, pixels.fragments, transfer_syntax_uid)


def _pixels(nodes: Iterable[Node]) -> Node | None:
    return next((node for node in nodes if node.tag in PIXEL_TAGS), None)


def _without_frames(data_set: WholeDataSet, fragments: tuple[tuple[int, int], ...], syntax: str) -> str | None:
    filled = sum(1 for start, end in fragments[1:] if end > start)
    wanted = 1 if UID(syntax).startswith(_VIDEO) else data_set.frames
    if filled >= wanted:
        return None
    return f"{named(PIXEL_DATA)} has {filled} fragments, and its header calls for {data_set.frames} frames"
