"""The proof of a copy: read again from its first byte to its last, and compared with its source.

Every element must have the value it had, nested ones too. Pixels that were compressed must be, sample for sample,
what a decoder of another library makes of the source.
"""

from typing import NamedTuple

import numpy

from bucky.dicom.pixel_length import PIXEL_DATA, named
from bucky.dicom.source import MalformedDataSet, Source
from bucky.dicom.structure import Node, Nodes, Structure, belongs
from bucky.dicom.whole import WholeDataSet, whole
from bucky.transcode import CannotTranscode
from bucky.transcode.decoders import witnessed
from bucky.transcode.image import HIGH_BIT, PHOTOMETRIC, PLANAR, Image
from bucky.transcode.streams import Stream
from bucky.transcode.writing import WORDS

_PIXEL_TAGS = frozenset({PIXEL_DATA, 0x7FE00001, 0x7FE00002, 0x7FE00003, PHOTOMETRIC, PLANAR, HIGH_BIT})


class Compressed(NamedTuple):
    """Compressed pixels: what the header says of them, the colours they come out with, and each frame's stream."""

    image: Image
    colours: str
    frames: list[tuple[bytes, Stream]]


def prove(original: WholeDataSet, copy: Source, syntax: str, compressed: Compressed | None) -> None:
    """Raise `CannotTranscode` unless a copy in a transfer syntax says all that the original says."""
    try:
        found = whole(copy, 0, syntax)
    except MalformedDataSet as damage:
        raise CannotTranscode(f"its copy would be damaged: {damage}") from damage
    but = _PIXEL_TAGS if compressed else frozenset[int]()
    _compare((original.structure, original.nodes), (found.structure, found.nodes), but)
    if compressed is not None:
        _compare_pixels(compressed, found)


def _compare_pixels(compressed: Compressed, copy: WholeDataSet) -> None:
    """Compare as somebody sees them who knows the copy alone, and somebody who knows the source alone."""
    image = Image.of(copy)
    pixels, size = copy.by_tag[PIXEL_DATA], image.frame_bytes
    if (
        copy.number(HIGH_BIT) != image.stored - 1
        or image.photometric != compressed.colours
        or pixels.value_end - pixels.value_at > size * image.frames + 1
    ):
        raise CannotTranscode("its copy would describe other pixels than it has")
    for number, (frame, stream) in enumerate(compressed.frames):
        start = pixels.value_at + number * size
        ours = image.unpacked(copy.structure.between(start, start + size))
        theirs = compressed.image.cells(witnessed(frame, stream), stream)
        if not numpy.array_equal(ours, theirs):
            raise CannotTranscode(
                f"two decoders make different pixels of frame {number + 1}: which is right cannot be known"
            )


Part = tuple[Structure, Nodes]


def _compare(original: Part, copy: Part, but: frozenset[int]) -> None:
    ours, theirs = _by_tag(original[1], but), _by_tag(copy[1], but)
    for tag in sorted(ours.keys() ^ theirs.keys()):
        raise CannotTranscode(f"its copy would {'lack' if tag in ours else 'have'} {named(tag)}")
    for tag, node in ours.items():
        _compare_values((original[0], node), (copy[0], theirs[tag]))


def _compare_values(original: tuple[Structure, Node], copy: tuple[Structure, Node]) -> None:
    (source, node), (target, other) = original, copy
    if node.items is None and other.items is None and _same(_little(source, node), target.value(other)):
        return
    try:  # what one of them calls a sequence the other may hold as UN, or without a VR
        items = node.items if node.items is not None else source.items_in(node)
        others = other.items if other.items is not None else target.items_in(other)
    except MalformedDataSet:
        items, others = (), ((),)
    if len(items) != len(others):
        raise CannotTranscode(f"its copy would have another value in {named(node.tag)}")
    for one, its_copy in zip(items, others, strict=True):
        _compare((source, one), (target, its_copy), frozenset())


def _by_tag(nodes: Nodes, but: frozenset[int]) -> dict[int, Node]:
    """Return elements by tag, without the lengths of groups (PS3.5 §7.2, retired) and what is of no data set."""
    found: dict[int, Node] = {}
    for node in nodes:
        if node.tag in found:
            raise CannotTranscode(f"it has {named(node.tag)} twice")
        if belongs(node.tag) and node.tag not in but:
            found[node.tag] = node
    return found


def _little(source: Structure, node: Node) -> bytes:
    """Return a value as it is in little endian."""
    value = source.value(node)
    size = 1 if source.little else WORDS.get(node.vr or "", 1)
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size)) if size > 1 else value


def _same(value: bytes, other: bytes) -> bool:
    """Compare two values, of which one may have been padded to an even length."""
    return value == other or (len(value) % 2 == 1 and len(other) == len(value) + 1 and other.startswith(value))
