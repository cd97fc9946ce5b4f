"""The conversion matrix: what is sent for each cell, its pixels compared with what DCMTK and the encoder know."""

import io
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from bucky.dicom.part10 import FileMeta, file_header
from bucky.transcode import ALTERNATIVES, CannotTranscode
from bucky.transcode.conversion import transcode
from bucky.transcode.decoders import decoded
from bucky.transcode.streams import stream_of
from tests.support.pixels.encoded_images import (
    Pixels,
    bytes_of,
    compressed,
    data_set,
    dcmtk,
    htj2k,
    jpeg_2000,
    native,
    samples_of,
    seen,
)

PAGE = Path(__file__).parents[4] / "docs/reference/conversion.md"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG = "1.2.840.10008.1.2.4."
GREY = [("MONOCHROME2", bits, signed) for bits, signed in ((8, False), (8, True), (12, False), (12, True))]
GREY += [("MONOCHROME2", 16, False), ("MONOCHROME2", 16, True), ("MONOCHROME1", 16, False), ("PALETTE COLOR", 8, False)]
RGB, YBR = ("RGB", 8, False), ("YBR_FULL", 8, False)

# Transfer syntax, who encodes it, and of what. DCMTK's encoders say afterwards what the colours have become.
MADE_BY_DCMTK: list[tuple[str, list[str], list[tuple[str, int, bool]]]] = [
    (f"{JPEG}50", ["dcmcjpeg", "+eb"], [GREY[0], RGB, YBR]),
    (f"{JPEG}50", ["dcmcjpeg", "+eb", "+cr"], [RGB]),
    (f"{JPEG}50", ["dcmcjpeg", "+eb", "+s4"], [RGB]),
    (f"{JPEG}51", ["dcmcjpeg", "+ee"], [GREY[0], GREY[2], RGB]),
    (f"{JPEG}57", ["dcmcjpeg", "+el"], [*GREY, RGB, YBR]),
    (f"{JPEG}70", ["dcmcjpeg", "+e1"], [*GREY, RGB, YBR, ("RGB", 16, False)]),
    (f"{JPEG}80", ["dcmcjpls", "+el"], [*GREY, RGB, YBR, ("RGB", 16, False)]),
    (f"{JPEG}81", ["dcmcjpls", "+en", "+md", "2"], [*GREY[:1], GREY[2], GREY[4], RGB]),
    ("1.2.840.10008.1.2.5", ["dcmcrle"], [*GREY, RGB, YBR, ("RGB", 16, False)]),
]
DECODERS = {"dcmcjpeg": ["dcmdjpeg", "+cn"], "dcmcjpls": ["dcmdjpls"], "dcmcrle": ["dcmdrle"]}
HTJ2K_CELLS = [*GREY, RGB, ("YBR_RCT", 8, False), ("RGB", 16, False)]
MADE_BY_IMAGECODECS: list[tuple[str, Callable[..., bytes], list[tuple[str, int, bool]]]] = [
    (f"{JPEG}90", jpeg_2000(reversible=True, mct=False), [*GREY, RGB, YBR, ("RGB", 16, False)]),
    (f"{JPEG}90", jpeg_2000(reversible=True, mct=True), [("YBR_RCT", 8, False), RGB]),
    (f"{JPEG}201", htj2k, HTJ2K_CELLS),
    (f"{JPEG}202", partial(htj2k, tlm=True), HTJ2K_CELLS),
    (f"{JPEG}203", htj2k, HTJ2K_CELLS),
]


def converted(content: bytes, source: str, target: str = EXPLICIT) -> Dataset:
    """Convert a data set and read what comes out."""
    out = io.BytesIO()
    transcode(io.BytesIO(content), source, out, target)
    header = file_header(FileMeta("1.2.840.10008.5.1.4.1.1.7", "1.2.3", target))
    return pydicom.dcmread(io.BytesIO(header + out.getvalue()))


def variants(cells: list[tuple[str, int, bool]]) -> list[Pixels]:
    """Return each cell with one frame and three, and colours with what either planar configuration says."""
    return [
        Pixels(*cell, frames, planar)
        for cell in cells
        for frames, planar in ((1, 0), (1, 1), (3, 1))
        if planar == 0 or frames == 3 or cell[0] in {"RGB", "YBR_FULL", "YBR_RCT"}
    ]


@pytest.mark.skipif(not shutil.which("dcmcjpeg"), reason="DCMTK is not installed")
@pytest.mark.parametrize(("syntax", "program", "cells"), MADE_BY_DCMTK, ids=lambda one: str(one)[:40])
def test_what_dcmtk_encodes_comes_out_as_dcmtk_decodes_it(
    syntax: str, program: list[str], cells: list[tuple[str, int, bool]], tmp_path: Path
) -> None:
    """Every colour, depth, sign and number of frames has DCMTK's pixels, whatever the header says of planes."""
    for pixels in variants(cells):
        encoded = dcmtk(program, native(pixels), tmp_path)
        assert encoded.file_meta.TransferSyntaxUID == syntax
        theirs = seen(dcmtk(DECODERS[program[0]], encoded, tmp_path))
        if pixels.samples > 1:
            encoded.PlanarConfiguration = pixels.planar  # DCMTK corrects it, others do not
        for target in ALTERNATIVES[syntax]:
            ours = converted(bytes_of(encoded), syntax, target)
            assert numpy.array_equal(seen(ours), theirs), pixels
            assert ours.PhotometricInterpretation == encoded.PhotometricInterpretation.replace("FULL_422", "FULL")


@pytest.mark.parametrize(
    ("syntax", "encode", "cells"), MADE_BY_IMAGECODECS, ids=lambda one: str(one).split(" at 0x")[0][:24]
)
def test_what_is_encoded_without_loss_comes_out_as_it_went_in(
    syntax: str, encode: Callable[..., bytes], cells: list[tuple[str, int, bool]]
) -> None:
    """JPEG 2000 and HTJ2K images have the samples that were encoded; a transform of colours is undone and said."""
    for pixels in variants(cells):
        found = converted(bytes_of(compressed(pixels, syntax, encode)), syntax)
        assert numpy.array_equal(seen(found), samples_of(pixels)), pixels
        assert found.PhotometricInterpretation == {"YBR_RCT": "RGB"}.get(pixels.photometric, pixels.photometric)


@pytest.mark.parametrize("source", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_what_is_not_compressed_keeps_its_samples_and_planes(source: str) -> None:
    """Other byte orders and VRs change no sample, and colours by plane stay by plane."""
    for pixels in variants([*GREY, RGB, YBR, ("RGB", 16, False)]):
        for target in ALTERNATIVES[source]:
            found = converted(bytes_of(native(pixels, source)), source, target)
            assert numpy.array_equal(seen(found), samples_of(pixels)), pixels
            assert found.get("PlanarConfiguration") == (pixels.planar if pixels.samples > 1 else None)


GREY_8 = Pixels("MONOCHROME2", 8, False, 1)
COLOUR = Pixels("RGB", 8, False, 1)
BASELINE, LOSSLESS, J2K, RLE = f"{JPEG}50", f"{JPEG}70", f"{JPEG}90", "1.2.840.10008.1.2.5"
HT = f"{JPEG}201"


def jpeg(frame: "numpy.ndarray[Any, Any]", **options: Any) -> bytes:
    """Encode a frame as JPEG without changing its colours."""
    return bytes(imagecodecs.jpeg8_encode(frame, 90, **options))


def cut(encode: Callable[..., bytes], end: bytes = b"") -> Callable[..., bytes]:
    """Return an encoder whose stream loses its last bytes."""

    def shortened(frame: "numpy.ndarray[Any, Any]") -> bytes:
        stream = encode(frame)
        return stream[:-40] + end

    return shortened


def lengths_mended(frame: "numpy.ndarray[Any, Any]") -> bytes:
    """Return an HTJ2K stream that lost 3 bytes before its end marker, and whose tile says so."""
    stream = htj2k(frame)
    at = stream.index(b"\xff\x90") + 6
    length = int.from_bytes(stream[at : at + 4], "big") - 3
    return stream[:at] + length.to_bytes(4, "big") + stream[at + 4 : -5] + b"\xff\xd9"


def wrong(**elements: Any) -> Dataset:
    """Return a sound JPEG 2000 image whose header says something else."""
    found = compressed(GREY_8, J2K, jpeg_2000(reversible=True))
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    return found


def without(keyword: str, pixels: Pixels = GREY_8) -> Dataset:
    """Return a sound JPEG 2000 image whose header does not have an element."""
    found = compressed(pixels, J2K, jpeg_2000(reversible=True, mct=False))
    del found[keyword]
    return found


def three(syntax: str, encode: Callable[..., bytes], number: int | None) -> Dataset:
    """Return three frames whose header says another number of them, or none."""
    found = compressed(GREY_8._replace(frames=3), syntax, encode)
    if number is None:
        del found.NumberOfFrames
    else:
        found.NumberOfFrames = number
    return found


def twice(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """Return an encoder whose stream holds the image twice."""
    return lambda frame: 2 * encode(frame)


def without_offsets(found: Dataset) -> Dataset:
    """Return a data set whose fragments begin where the offset table should be."""
    content = found.PixelData
    assert content[:4] == b"\xfe\xff\x00\xe0"
    found.PixelData = content[8 + int.from_bytes(content[4:8], "little") :]
    return found


RLE_FRAME = b"\x01\0\0\0\x40" + bytes(59) + imagecodecs.packbits_encode(samples_of(GREY_8)[0].tobytes())
RLE_FRAME += b"\0" * (len(RLE_FRAME) % 2)


@pytest.mark.parametrize("number", ["3 ", "+3", "03", " 3", "+03 "])
def test_a_number_of_frames_is_read_as_the_standard_writes_it(number: str) -> None:
    """An integer string may have a sign, zeros and blanks (PS3.5 §6.2): no frame is left out for that."""
    head = b"\x28\x00\x08\x00IS"
    value = number.encode() + b" " * (len(number) % 2)
    content = bytes_of(three(J2K, jpeg_2000(reversible=True), 3))
    content = content.replace(head + b"\x02\x003 ", head + len(value).to_bytes(2, "little") + value)
    assert numpy.array_equal(seen(converted(content, J2K)), samples_of(GREY_8._replace(frames=3)))


def test_the_high_bit_of_a_copy_is_that_of_its_samples() -> None:
    """A header may lie about a compressed stream, which nobody asks then; uncompressed, its samples would be black."""
    found = compressed(GREY_8, LOSSLESS, lambda frame: jpeg(frame, lossless=True))
    found.BitsAllocated, found.BitsStored, found.HighBit = 16, 8, 15
    copy = converted(bytes_of(found), LOSSLESS)
    assert (copy.BitsAllocated, copy.BitsStored, copy.HighBit) == (16, 8, 7)
    assert numpy.array_equal(seen(copy), samples_of(GREY_8))


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "pixels cut short": (
        lambda: bytes_of(native(GREY_8))[:-212],
        EXPLICIT,
        "PixelData is 646 bytes long, and the data set",
    ),
    "cut before its pixels": (lambda: bytes_of(native(GREY_8))[:-658], EXPLICIT, r"without \(7FE0,0010\) PixelData"),
    "cut within its header": (lambda: bytes_of(native(GREY_8))[:-690], EXPLICIT, "ends"),
    "fewer pixels than its header calls for": (
        lambda: bytes_of(data_set(GREY_8, bytes(600), EXPLICIT)),
        EXPLICIT,
        "PixelData has 600 of the 646 bytes",
    ),
    "an element with an unknown VR": (
        lambda: bytes_of(native(GREY_8)).replace(b"\x28\x00\x00\x01US", b"\x28\x00\x00\x01??"),
        EXPLICIT,
        r"\(0028,0100\) BitsAllocated has the VR '\?\?'",
    ),
    "an element with a wrong length": (
        lambda: bytes_of(native(GREY_8)).replace(b"\x10\x00\x20\x00LO\x02\x00", b"\x10\x00\x20\x00LO\xf2\xff"),
        EXPLICIT,
        r"\(0010,0020\) PatientID is 65522 bytes long",
    ),
    "fragments cut short": (
        lambda: bytes_of(compressed(GREY_8, J2K, jpeg_2000()))[:-30],
        J2K,
        r"fragment 1 of \(7FE0,0010\) PixelData",
    ),
    "a fragment without the end of its sequence": (
        lambda: bytes_of(compressed(GREY_8, J2K, jpeg_2000()))[:-8],
        J2K,
        "ends within the first bytes",
    ),
    "a JPEG stream cut short": (lambda: bytes_of(compressed(GREY_8, BASELINE, cut(jpeg))), BASELINE, "no end marker"),
    "a JPEG stream cut short, with an end marker": (
        lambda: bytes_of(compressed(GREY_8, BASELINE, cut(jpeg, b"\xff\xd9"))),
        BASELINE,
        "stream is damaged",
    ),
    "a JPEG 2000 stream cut short": (
        lambda: bytes_of(compressed(GREY_8, J2K, cut(jpeg_2000(), b"\xff\xd9"))),
        J2K,
        "cut short",
    ),
    "an HTJ2K stream cut short": (lambda: bytes_of(compressed(GREY_8, HT, cut(htj2k))), HT, "cut short"),
    "an HTJ2K stream cut short, with an end marker": (
        lambda: bytes_of(compressed(GREY_8, HT, cut(htj2k, b"\xff\xd9"))),
        HT,
        "cut short",
    ),
    "an HTJ2K stream cut by 3 bytes, with an end marker and lengths that fit": (
        lambda: bytes_of(compressed(GREY_8, f"{JPEG}202", lengths_mended)),
        f"{JPEG}202",
        "cannot be decoded",
    ),
    "two HTJ2K images in one stream": (
        lambda: bytes_of(compressed(GREY_8, f"{JPEG}203", twice(htj2k))),
        f"{JPEG}203",
        "another image|do not lead to its end",
    ),
    "an HTJ2K stream of another size than its header's": (
        lambda: bytes_of(compressed(GREY_8, HT, lambda frame: htj2k(frame[:-1]))),
        HT,
        "HTJ2K stream holds 34 x 18 pixels",
    ),
    "an HTJ2K stream with loss": (
        lambda: bytes_of(compressed(GREY_8, f"{JPEG}203", partial(htj2k, reversible=False))),
        f"{JPEG}203",
        "two decoders make different pixels",
    ),
    "an RLE frame cut short": (
        lambda: bytes_of(compressed(GREY_8, RLE, lambda _: b"\x01\0\0\0\x40" + bytes(59) + b"\xf0\x05")),
        RLE,
        "RLE frame is cut short",
    ),
    "fewer fragments than frames": (lambda: bytes_of(wrong(NumberOfFrames=3)), J2K, "calls for 3 frames"),
    "more frames than its header says": (lambda: bytes_of(three(J2K, jpeg_2000(), None)), J2K, "fragments hold 3"),
    "more JPEG-LS frames than its header says": (
        lambda: bytes_of(three(f"{JPEG}80", lambda frame: bytes(imagecodecs.jpegls_encode(frame)), 1)),
        f"{JPEG}80",
        "fragments hold 3",
    ),
    "more RLE frames than its header says": (
        lambda: bytes_of(data_set(GREY_8, encapsulate([RLE_FRAME] * 2, has_bot=False), RLE)),
        RLE,
        "fragments hold 2",
    ),
    "a number of frames that is no number": (
        lambda: bytes_of(three(J2K, jpeg_2000(), 3)).replace(
            b"\x28\x00\x08\x00IS\x02\x003 ", b"\x28\x00\x08\x00IS\x02\x003e"
        ),
        J2K,
        r"without a number in \(0028,0008\)",
    ),
    "no Rows": (lambda: bytes_of(without("Rows")), J2K, r"without \(0028,0010\) Rows"),
    "no Bits Allocated": (
        lambda: bytes_of(without("BitsAllocated")),
        J2K,
        r"without \(0028,0100\) BitsAllocated",
    ),
    "no Bits Stored": (
        lambda: bytes_of(without("BitsStored", Pixels("MONOCHROME2", 12, True, 1))),
        J2K,
        r"without \(0028,0101\) BitsStored",
    ),
    "colours without Photometric Interpretation": (
        lambda: bytes_of(without("PhotometricInterpretation", COLOUR)),
        J2K,
        r"without \(0028,0004\) PhotometricInterpretation",
    ),
    "two JPEG images in one stream": (
        lambda: bytes_of(compressed(GREY_8, BASELINE, twice(jpeg))),
        BASELINE,
        "another image",
    ),
    "two JPEG 2000 images in one stream": (
        lambda: bytes_of(compressed(GREY_8, J2K, twice(jpeg_2000()))),
        J2K,
        "another image|do not lead to its end",
    ),
    "a frame in place of the offset table": (
        lambda: bytes_of(without_offsets(three(J2K, jpeg_2000(), 2))),
        J2K,
        "something else in its place",
    ),
    "an RLE frame of more rows than its header says": (
        lambda: bytes_of(data_set(GREY_8, encapsulate([RLE_FRAME], has_bot=False), RLE)).replace(
            b"\x28\x00\x10\x00US\x02\x00\x13", b"\x28\x00\x10\x00US\x02\x00\x0a"
        ),
        RLE,
        "RLE frame is another image",
    ),
    "samples of more bits than its header says count": (
        lambda: bytes_of(compressed(Pixels("MONOCHROME2", 16, False, 1), J2K, jpeg_2000())).replace(
            b"\x28\x00\x01\x01US\x02\x00\x10", b"\x28\x00\x01\x01US\x02\x00\x08"
        ),
        J2K,
        "8 bits of a sample count",
    ),
    "big endian words with the VR of bytes": (
        lambda: bytes_of(native(Pixels("MONOCHROME2", 16, False, 1), BIG_ENDIAN)).replace(
            b"\x7f\xe0\x00\x10OW", b"\x7f\xe0\x00\x10OB"
        ),
        BIG_ENDIAN,
        "with the VR of bytes",
    ),
    "another size than its header's": (lambda: bytes_of(wrong(Rows=18)), J2K, "header describes 34 x 18 pixels"),
    "more bits than its header has room for": (
        lambda: bytes_of(compressed(Pixels("MONOCHROME2", 16, False, 1), J2K, jpeg_2000())).replace(
            b"\x28\x00\x00\x01US\x02\x00\x10", b"\x28\x00\x00\x01US\x02\x00\x08"
        ),
        J2K,
        "16 bits a sample",
    ),
    "RGB in its header, YCbCr in its stream": (
        lambda: bytes_of(compressed(COLOUR, BASELINE, lambda frame: jpeg(frame, outcolorspace="YCBCR"))),
        BASELINE,
        "which is right cannot be known",
    ),
    "colours that have no uncompressed form": (
        lambda: bytes_of(compressed(COLOUR._replace(photometric="YBR_ICT"), J2K, jpeg_2000(mct=False))),
        J2K,
        "YBR_ICT, have no uncompressed form",
    ),
    "pixels that are not compressed as its transfer syntax says": (
        lambda: bytes_of(native(GREY_8)),
        LOSSLESS,
        "not compressed, unlike",
    ),
    "compressed pixels in an uncompressed transfer syntax": (
        lambda: bytes_of(compressed(GREY_8, J2K, jpeg_2000())),
        EXPLICIT,
        "are compressed, unlike",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_damaged_or_contradicts_itself_is_refused(name: str) -> None:
    """Nothing is emitted of what could not be read whole, and the reason names what is wrong."""
    content, syntax, reason = REFUSED[name]
    for target in ALTERNATIVES[syntax]:
        with pytest.raises(CannotTranscode, match=reason):
            converted(content(), syntax, target)


def test_an_error_that_imagecodecs_lets_pass_is_no_image() -> None:
    """Of a broken tile it returns memory that nobody has written to, which only the witness would have noticed."""
    frame = lengths_mended(samples_of(GREY_8)[0][:, :, 0])
    with pytest.raises(CannotTranscode, match="cannot be decoded"):
        decoded(frame, stream_of(frame))


def page() -> str:
    """Return the tables of docs/reference/conversion.md."""
    made = [(syntax, cells, f"DCMTK (`{DECODERS[program[0]][0]}`)") for syntax, program, cells in MADE_BY_DCMTK]
    made += [(syntax, cells, "the samples that were encoded") for syntax, _, cells in MADE_BY_IMAGECODECS]
    made += [(one, [*GREY, RGB, YBR, ("RGB", 16, False)], "the samples") for one in (IMPLICIT, EXPLICIT, BIG_ENDIAN)]
    rows = ["| Transfer syntax | Photometric interpretation | Bits | Sign | Compared with |", "|---|---|---|---|---|"]
    found: dict[tuple[str, str, str], tuple[set[int], set[bool]]] = {}
    for syntax, cells, witness in made:
        for photometric, bits, signed in cells:
            of_cell = found.setdefault((UID(syntax).name, photometric, witness), (set(), set()))
            of_cell[0].add(bits)
            of_cell[1].add(signed)
    for (name, photometric, witness), (bits_of, signs) in found.items():
        signs_said = " and ".join({False: "unsigned", True: "signed"}[sign] for sign in sorted(signs))
        rows.append(f"| {name} | {photometric} | {', '.join(map(str, sorted(bits_of)))} | {signs_said} | {witness} |")
    refused = [f"| {name} | {UID(syntax).name} |" for name, (_, syntax, _) in REFUSED.items()]
    return "\n".join([*rows, "", "## What is refused", "", "| What is wrong | Tried in |", "|---|---|", *refused, ""])


def test_the_page_says_what_is_tested() -> None:
    """The reference is made of the cells above (BUCKY_WRITE_PAGES=1 writes it again)."""
    text = PAGE.read_text()
    start = text.index("| Transfer syntax |")
    if os.environ.get("BUCKY_WRITE_PAGES"):
        PAGE.write_text(text[:start] + page())
    assert PAGE.read_text()[start:] == page()
