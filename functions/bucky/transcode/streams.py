"""The frames in encapsulated pixels (PS3.5 §A.4), and what a frame's stream says of itself.

PS3.5 §8.2: where the stream and the data set differ, the stream says how it is encoded.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from bucky.transcode import CannotTranscode

_START_OF_IMAGE, _END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_STARTS = (_START_OF_IMAGE, _START_OF_CODESTREAM, _JP2_SIGNATURE)
_JPEG_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}
_JPEG_LS_FRAME, _HUFFMAN_SCAN, _ADOBE, _JFIF = 0xF7, 0xDA, 0xEE, 0xE0
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
"""One with a segment, or the end; all else in a scan is data, stuffed bytes and restarts (ISO 10918-1 §B.1.1.2)."""
_SIZ, _COD, _CAP, _START_OF_TILE = 0x51, 0x52, 0x50, 0x90


class Compression(StrEnum):
    """How a stream is compressed."""

    RLE = "RLE"
    JPEG = "JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"
    HTJ2K = "HTJ2K"


class Colours(StrEnum):
    """What a stream says of its three components."""

    UNSAID = "unsaid"
    RGB = "RGB"
    YBR = "YBR"


class Stream(NamedTuple):
    """What a stream says: size in pixels, components and bits of each, and what its components are.

    `transformed`: its colours were changed to be compressed, and come out as they were before (ISO 15444-1 Annex G).
    """

    kind: Compression
    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    colours: Colours = Colours.UNSAID
    transformed: bool = False
    lossless: bool = False


def frames_of(fragments: Sequence[bytes], number: int, *, rle: bool = False) -> list[bytes]:
    """Put the frames together: fragment by fragment, or where each stream begins; raise `CannotTranscode`.

    The first fragment, the offset table, is not needed and often wrong. A frame in RLE is one fragment (PS3.5 §A.4.2).
    """
    if fragments and (fragments[0].startswith(_STARTS) or (rle and len(fragments[0]) not in {0, 4 * number})):
        raise CannotTranscode("its pixels have no offset table, but something else in its place")
    filled = [fragment for fragment in fragments[1:] if fragment]
    if len(filled) == number:
        return filled
    frames: list[list[bytes]] = []
    for fragment in filled:
        if rle or fragment.startswith(_STARTS) or not frames:
            frames.append([])
        frames[-1].append(fragment)
    if len(frames) != number:
        raise CannotTranscode(f"its header says {number} frames, and its {len(filled)} fragments hold {len(frames)}")
    return [b"".join(frame) for frame in frames]


def stream_of(frame: bytes) -> Stream:
    """Read what a JPEG, JPEG-LS or JPEG 2000 stream says of itself; raise `CannotTranscode` when it is not whole."""
    if frame.startswith(_START_OF_IMAGE):
        stream = _jpeg(frame)
    elif frame.startswith(_START_OF_CODESTREAM):
        stream = _jpeg_2000(frame)
    else:
        raise CannotTranscode("its pixels are not in a JPEG, JPEG-LS or JPEG 2000 stream as its transfer syntax says")
    ended = frame.rstrip(b"\0\xff")
    if not (ended.endswith(_END_OF_IMAGE) or frame[:-1].endswith(_END_OF_IMAGE)):  # a byte of padding may be anything
        raise CannotTranscode(f"its {stream.kind} stream is cut short: it has no end marker")
    if len(frame[_end_of(frame, stream) :].strip(b"\0\xff")) > 1:
        raise CannotTranscode(f"its {stream.kind} stream ends, and is followed by more: there is another image in it")
    return stream


def _end_of(frame: bytes, stream: Stream) -> int:
    """Return where the bytes behind a stream's end marker begin."""
    if stream.kind in {Compression.JPEG_2000, Compression.HTJ2K}:
        another = frame.find(_START_OF_CODESTREAM, len(_START_OF_CODESTREAM))
        return len(frame) if another < 0 else another
    at = 2
    while (found := _MARKER.search(frame, at)) is not None:
        if found[0] == _END_OF_IMAGE:
            return found.end()
        # What stands between two markers is a segment with its length, or follows one.
        at = found.end() + int.from_bytes(frame[found.end() : found.end() + 2], "big")
    return len(frame)


def _jpeg(frame: bytes) -> Stream:
    jfif, adobe, found = False, None, None
    for marker, content in _segments(frame):
        if marker == _JFIF and content.startswith(b"JFIF\0"):
            jfif = True
        elif marker == _ADOBE and content.startswith(b"Adobe") and len(content) >= 12:
            adobe = content[11]
        elif marker in _JPEG_FRAMES or marker == _JPEG_LS_FRAME:
            found = marker, content
    if found is None:
        raise CannotTranscode("its JPEG stream has no frame header that can be decoded")
    marker, content = found
    precision, rows, columns, samples = struct.unpack_from(">BHHB", content)
    sampling = {content[7 + 3 * number] for number in range(samples)}
    if marker == _JPEG_LS_FRAME:
        return Stream(Compression.JPEG_LS, rows, columns, samples, precision)
    lossless = _JPEG_FRAMES[marker] == "lossless"
    colours = Colours.UNSAID
    if samples == 3 and not lossless:  # lossless streams have no colours of their own
        if len(sampling) > 1 or adobe == 1 or (jfif and adobe is None):
            colours = Colours.YBR
        elif adobe == 0 or content[6:15:3] == b"RGB":
            colours = Colours.RGB
    return Stream(Compression.JPEG, rows, columns, samples, precision, colours=colours, lossless=lossless)


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the markers of a JPEG stream and what they hold, up to its first scan (ISO 10918-1 §B.1.1)."""
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            raise CannotTranscode("its JPEG stream is broken before its first scan")
        marker = frame[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(frame):
            break
        yield marker, frame[at + 4 : at + 2 + length]
        if marker == _HUFFMAN_SCAN:
            return
        at += 2 + length
    raise CannotTranscode("its JPEG stream is cut short: it has no scan")


def _jpeg_2000(frame: bytes) -> Stream:
    """Read a codestream's main header (ISO 15444-1 §A.4)."""
    at, size, transformed, high_throughput = 2, b"", False, False
    while at + 4 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != _START_OF_TILE:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        content = frame[at + 4 : at + 2 + length]
        if marker == _SIZ:
            size = content
        elif marker == _COD:
            transformed = content[4] == 1
        elif marker == _CAP:
            high_throughput = True
        at += 2 + max(length, 2)
    if len(size) < 36 or frame[at : at + 2] != bytes((0xFF, _START_OF_TILE)):
        raise CannotTranscode("its JPEG 2000 stream is cut short: its header has no end")
    x, y, x_from, y_from = struct.unpack_from(">4I", size, 2)
    (samples,) = struct.unpack_from(">H", size, 34)
    components = {size[36 + 3 * number : 39 + 3 * number] for number in range(samples)}
    if len(components) != 1 or len(component := components.pop()) != 3 or component[1:] != b"\1\1":
        raise CannotTranscode("the components of its JPEG 2000 stream are not all of one size and precision")
    _check_tiles(frame, at)
    kind = Compression.HTJ2K if high_throughput else Compression.JPEG_2000
    precision, signed = (component[0] & 0x7F) + 1, bool(component[0] & 0x80)
    return Stream(kind, y - y_from, x - x_from, samples, precision, signed, transformed=transformed)


def _check_tiles(frame: bytes, at: int) -> None:
    """Raise `CannotTranscode` unless the tile-parts, by the lengths they say, lead to the end (ISO 15444-1 §A.4.2)."""
    while frame[at : at + 2] == bytes((0xFF, _START_OF_TILE)):
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if length == 0:  # up to the end
            return
        at += length
    if frame[at : at + 2] != _END_OF_IMAGE:
        raise CannotTranscode("its JPEG 2000 stream is cut short: its tiles do not lead to its end")
