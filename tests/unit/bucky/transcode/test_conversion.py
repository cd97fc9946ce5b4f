import io
import struct
import zlib
from pathlib import Path

import numpy
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from bucky.dicom.foreign_file import NotAnInstance, Unsendable, read_foreign_file
from bucky.dicom.json_model import quietly
from bucky.dicom.part10 import FileMeta, file_header
from bucky.transcode import ALTERNATIVES, CannotTranscode
from bucky.transcode import conversion as transcoding
from bucky.transcode.conversion import transcode
from tests.support.dicom.sample_instances import SAMPLE

EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
DEFLATED = "1.2.840.10008.1.2.1.99"


def data_set_of(path: Path) -> tuple[bytes, str]:
    """Return a file's data set bytes and transfer syntax."""
    file = read_foreign_file(path)
    return path.read_bytes()[file.offset :], file.transfer_syntax_uid


def converted(data_set: bytes, source: str, target: str) -> bytes:
    """Convert a data set."""
    out = io.BytesIO()
    transcode(io.BytesIO(data_set), source, out, target)
    return out.getvalue()


def read(data_set: bytes, syntax: str) -> Dataset:
    """Read a data set as pydicom does."""
    header = file_header(FileMeta("1.2.840.10008.5.1.4.1.1.7", "1.2", syntax))
    return pydicom.dcmread(io.BytesIO(header + data_set))


REFUSED = {
    "GDCMJ2K_TextGBR.dcm",  # pixels of another form than its transfer syntax says
    "JPEG2000-embedded-sequence-delimiter.dcm",  # a stream of 3,722,445,056 x 1,024 pixels
    "MR_truncated.dcm",  # 62 bytes of its pixels are missing
    "badVR.dcm",  # 1A frames
    "rtdose_expb.dcm",  # big endian with 32 bits, for which two orders are in use
    "rtdose_expb_1frame.dcm",
    "rtplan_truncated.dcm",  # a sequence is cut short
}


def convertible() -> list[tuple[Path, str]]:
    """Return pydicom's test files that can be converted, and to what."""
    found = []
    for path in sorted(SAMPLE.parent.rglob("*")):
        try:
            syntax = read_foreign_file(path).transfer_syntax_uid
        except (NotAnInstance, Unsendable, IsADirectoryError):
            continue
        found += [(path, target) for target in ALTERNATIVES.get(syntax, ())]
    return found


def test_every_file_converts_losing_nothing_or_says_why() -> None:
    """Each of pydicom's files comes out with the same pixels and elements, or is refused with a reason."""
    kept, refused = 0, []
    for path, target in convertible():
        data_set, source = data_set_of(path)
        try:
            result = converted(data_set, source, target)
        except CannotTranscode as error:
            refused.append((path.name, str(error)))
            continue
        with quietly():
            before, after = read(data_set, source), read(result, target)
            assert_same(before, after, path)
        kept += 1
    assert kept >= 139, refused
    reasons = {name: reason for name, reason in refused if "without (7FE0,0010)" not in reason}  # but headers alone
    assert set(reasons) == REFUSED, reasons


def assert_same(before: Dataset, after: Dataset, path: Path) -> None:
    """Compare two data sets, and their pixels as numbers."""
    syntax = before.file_meta.TransferSyntaxUID
    other_bytes = syntax.is_encapsulated or not syntax.is_little_endian
    assert_same_elements(before, after, PIXEL_TAGS if other_bytes else set())
    if other_bytes and "Rows" in before and syntax != JPEGExtended12Bit:  # pydicom decodes no 12 bits
        assert numpy.array_equal(pixel_array(before), pixel_array(after)), path  # as a viewer shows them


def assert_same_elements(before: Dataset, after: Dataset, but: set[int]) -> None:
    """Compare the undecoded values of two data sets, nested ones too."""
    for tag in list(before.keys()):
        if tag.element == 0 or tag in but:
            continue
        ours, theirs = before.get_item(tag).value, after.get_item(tag).value
        if before.get_item(tag).VR == "SQ" or (
            isinstance(ours, bytes) and ours.startswith(ITEM) and before[tag].VR == "SQ"
        ):
            for one, other in zip(before[tag].value or (), after[tag].value or (), strict=True):
                assert_same_elements(one, other, set())
        elif not before.original_encoding[1] and before.get_item(tag).VR != "OW":
            assert before[tag].value == after[tag].value, tag
        elif isinstance(ours, bytes) and isinstance(theirs, bytes):
            assert ours.rstrip(b"\0 ") == theirs.rstrip(b"\0 "), tag
        else:
            assert (before[tag].value or None) == (after[tag].value or None), tag
    assert {tag for tag in after.keys() if tag.element} - set(before.keys()) <= but  # noqa: SIM118


ITEM = b"\xfe\xff\x00\xe0"
PIXEL_TAGS = {0x00280004, 0x00280006, 0x7FE00001, 0x7FE00002, 0x7FE00010}


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm"])
def test_a_lossless_image_has_the_pixels_it_was_made_from(name: str) -> None:
    """The pixels that come out are those of the file that was never compressed, bit for bit."""
    original, _ = data_set_of(SAMPLE.parent / "MR_small.dcm")
    result = converted(*data_set_of(SAMPLE.parent / name), EXPLICIT)
    assert read(result, EXPLICIT).PixelData == read(original, EXPLICIT).PixelData


def test_the_uid_and_the_mark_of_a_lossy_image_stay() -> None:
    """Decompressing makes no new instance, and does not hide that the image was once compressed lossily."""
    data_set, source = data_set_of(SAMPLE.parent / "JPEG2000.dcm")
    before, after = read(data_set, source), read(converted(data_set, source, EXPLICIT), EXPLICIT)
    assert after.SOPInstanceUID == before.SOPInstanceUID
    assert after.get("LossyImageCompression") == before.get("LossyImageCompression")


def test_there_and_back_again_is_the_same() -> None:
    """Explicit and implicit VR say the same of every element that the standard knows."""
    data_set, source = data_set_of(SAMPLE)
    assert source == EXPLICIT
    implicit = converted(data_set, EXPLICIT, IMPLICIT)
    again = converted(implicit, IMPLICIT, EXPLICIT)
    for tag, raw in read(data_set, EXPLICIT).items():
        if not tag.is_private:
            there = read(again, EXPLICIT).get_item(tag)
            assert (there.VR, there.value) == (raw.VR, raw.value)


@pytest.mark.parametrize("zeros", [8, 512])
def test_what_belongs_to_no_data_set_is_left_out(zeros: int) -> None:
    """Zeros after a data set, and elements of file meta information in it, do not become elements of the copy."""
    data_set, source = data_set_of(SAMPLE)
    misplaced = struct.pack("<HH2sH", 2, 0x10, b"UI", 4) + b"1.2\0"
    odd = converted(misplaced + data_set + bytes(zeros), source, IMPLICIT)
    assert odd == converted(data_set, source, IMPLICIT)


def test_a_deflated_data_set_comes_out_as_it_went_in() -> None:
    """Inflating gives the very bytes that were deflated."""
    data_set, _ = data_set_of(SAMPLE)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(data_set) + deflater.flush()
    result = read(converted(deflated, DEFLATED, EXPLICIT), EXPLICIT)
    assert result == read(data_set, EXPLICIT)


@pytest.mark.parametrize("cut", [b"", b"not deflated at all", zlib.compress(b"x" * 100, wbits=-15)[:-4]])
def test_what_is_not_deflated_is_refused(cut: bytes) -> None:
    """A broken stream ends in a reason, never in half a data set."""
    with pytest.raises(CannotTranscode, match="compress"):
        converted(cut, DEFLATED, EXPLICIT)


def test_a_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that inflates to gigabytes must not take the machine's memory."""
    monkeypatch.setattr(transcoding, "MAX_BYTES", 1_000_000)
    with pytest.raises(CannotTranscode, match="larger than"):
        converted(zlib.compress(bytes(50_000_000), wbits=-15), DEFLATED, EXPLICIT)


def test_an_image_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not fit in memory is refused before it is tried."""
    monkeypatch.setattr(transcoding, "MAX_BYTES", 1_000)
    with pytest.raises(CannotTranscode, match="larger than"):
        converted(*data_set_of(SAMPLE.parent / "MR_small_RLE.dcm"), EXPLICIT)


def test_an_icon_that_is_compressed_too_is_refused() -> None:
    """An image must not go out as uncompressed with something compressed left in it."""
    path = SAMPLE.parent / "MR_small_RLE.dcm"
    data_set = pydicom.dcmread(path)
    icon = Dataset()
    icon.PixelData = data_set.PixelData
    icon["PixelData"].is_undefined_length = True
    icon["PixelData"].VR = "OB"
    data_set.IconImageSequence = [icon]
    file = io.BytesIO()
    dcmwrite(file, data_set)
    whole = file.getvalue()
    start = whole.index(b"DICM") + 4
    length = int.from_bytes(whole[start + 8 : start + 12], "little")
    with pytest.raises(CannotTranscode, match="icon"):
        converted(whole[start + 12 + length :], data_set.file_meta.TransferSyntaxUID, EXPLICIT)


@pytest.mark.parametrize(
    ("source", "target"),
    [(EXPLICIT, str(ExplicitVRBigEndian)), (EXPLICIT, "1.2.840.10008.1.2.4.50"), (EXPLICIT, "1.2.840.10008.1.2.5")],
)
def test_nothing_is_ever_compressed(source: str, target: str) -> None:
    """No conversion that could lose something exists."""
    with pytest.raises(CannotTranscode, match="is not converted to"):
        converted(b"", source, target)


def test_random_bytes_end_in_a_reason() -> None:
    """Whatever malformed pixels lead a decoder to, the instance alone is refused."""
    path = SAMPLE.parent / "MR_small_jp2klossless.dcm"
    data_set, source = data_set_of(path)
    with pytest.raises(CannotTranscode, match=r"it is damaged: it is an image \(MR Image Storage\) without"):
        converted(data_set[:-5000] + bytes(5000), source, EXPLICIT)
