"""From a data set in one transfer syntax to a file in another: read whole, converted, and proved."""

from collections.abc import Iterable
from typing import BinaryIO

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from bucky.dicom.deflated import inflated
from bucky.dicom.pixel_length import PIXEL_DATA, named, unsaid
from bucky.dicom.source import MalformedDataSet, StreamSource
from bucky.dicom.structure import Node
from bucky.dicom.whole import WholeDataSet, whole
from bucky.transcode import ALTERNATIVES, CannotTranscode
from bucky.transcode.decoders import decoded
from bucky.transcode.image import HIGH_BIT, PHOTOMETRIC, PLANAR, SAMPLES, STORED, Image, rle_stream
from bucky.transcode.proof import Compressed, prove
from bucky.transcode.streams import Stream, frames_of, stream_of
from bucky.transcode.writing import Writer

MAX_BYTES = 256 * 1024 * 1024
"""Of a data set without its compression; several of it are in memory for a moment."""
_OFFSETS = (0x7FE00001, 0x7FE00002, 0x7FE00003)


def transcode(source: BinaryIO, source_syntax: str, target: BinaryIO, target_syntax: str) -> None:
    """Write the data set that a stream holds to another, which can be read again, in another transfer syntax.

    Raises `CannotTranscode` with the fact that forbids it; what was written until then is of no use.
    """
    if target_syntax not in ALTERNATIVES.get(source_syntax, ()):
        raise CannotTranscode(f"{UID(source_syntax).name} is not converted to {UID(target_syntax).name}")
    try:
        if source_syntax == DeflatedExplicitVRLittleEndian:
            with inflated(source, MAX_BYTES) as plain:
                _convert(plain, ExplicitVRLittleEndian, target, target_syntax)
        else:
            _convert(source, UID(source_syntax), target, target_syntax)
    except MalformedDataSet as damage:
        raise CannotTranscode(f"it is damaged: {damage}") from damage


def _convert(source: BinaryIO, syntax: UID, target: BinaryIO, target_syntax: str) -> None:
    original = whole(StreamSource(source), 0, syntax)
    compressed = _compressed(original, syntax)
    replaced = {} if compressed is None else _decompressed(compressed)
    implicit = target_syntax == ImplicitVRLittleEndian
    Writer(original.structure, implicit=implicit, replaced=replaced).write(original.nodes, target)
    target.flush()
    prove(original, StreamSource(target), target_syntax, compressed)


def _compressed(original: WholeDataSet, syntax: UID) -> Compressed | None:
    """Return the frames of compressed pixels, checked against the header; None when there are none."""
    pixels = original.by_tag.get(PIXEL_DATA)
    if _has_fragments(node for node in original.nodes if node is not pixels):
        raise CannotTranscode("an image within it, such as its icon, is compressed too")
    if pixels is None:
        return None
    if missing := unsaid(original):
        raise CannotTranscode(f"it is damaged: it has pixels, and does not say how many: without {missing}")
    if syntax.is_encapsulated != (pixels.fragments is not None):
        raise CannotTranscode(
            f"its pixels are {'not ' if syntax.is_encapsulated else ''}compressed, unlike {syntax.name} says"
        )
    image = Image.of(original)
    if not original.structure.little and image.allocated > 16:
        raise CannotTranscode(f"its pixels are big endian with {image.allocated} bits, for which two orders are in use")
    if not original.structure.little and image.allocated > 8 and pixels.vr == "OB":
        raise CannotTranscode(f"its pixels are big endian, {image.allocated} bits each, with the VR of bytes, OB")
    if pixels.fragments is None:
        return None
    if missing := _unexplained(original):
        raise CannotTranscode(f"it is damaged: it does not say what its samples mean: without {missing}")
    if image.samples not in {1, 3} or image.allocated not in {8, 16, 32}:
        raise CannotTranscode(f"pixels of {image.samples} samples with {image.allocated} bits are not decoded")
    if image.frame_bytes * image.frames > MAX_BYTES:
        raise CannotTranscode(f"without its compression it would be larger than {MAX_BYTES // 1024**2} MB")
    source = original.structure
    rle = syntax == RLELossless
    frames = frames_of([source.between(start, end) for start, end in pixels.fragments], image.frames, rle=rle)
    streams = [_stream(frame, image, syntax) for frame in frames]
    colours = {image.colours(stream) for stream in streams}
    if len(colours) != 1:
        raise CannotTranscode("its frames do not all have the same colours")
    return Compressed(image, colours.pop(), list(zip(frames, streams, strict=True)))


def _unexplained(original: WholeDataSet) -> str:
    """Return, in words, what a header does not say of samples that are to be decoded; nothing when it says all."""
    missing = [] if original.number(STORED) else [STORED]
    if original.number(SAMPLES) == 3 and not original.text(PHOTOMETRIC):
        missing.append(PHOTOMETRIC)
    return ", ".join(map(named, missing))


def _stream(frame: bytes, image: Image, syntax: UID) -> Stream:
    stream = rle_stream(image) if syntax == RLELossless else stream_of(frame)
    image.check(stream)
    return stream


def _has_fragments(nodes: Iterable[Node]) -> bool:
    return any(node.fragments is not None or any(map(_has_fragments, node.items or ())) for node in nodes)


def _decompressed(compressed: Compressed) -> dict[int, tuple[str, bytes]]:
    """Return what takes the place of compressed pixels: each pixel with its samples together."""
    image = compressed.image
    pixels = b"".join(image.cells(decoded(frame, stream), stream).tobytes() for frame, stream in compressed.frames)
    return {
        PIXEL_DATA: ("OB" if image.allocated == 8 else "OW", pixels),
        PHOTOMETRIC: ("CS", compressed.colours.encode()),
        HIGH_BIT: ("US", (image.stored - 1).to_bytes(2, "little")),
        **({PLANAR: ("US", bytes(2))} if image.samples > 1 else {}),
        **dict.fromkeys(_OFFSETS, ("OV", b"")),
    }
