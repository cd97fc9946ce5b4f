"""Damage to the pixels is told from the header and the length of what is there; what the standard allows is none."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.dicom.source import MalformedDataSet, StreamSource
from bucky.dicom.whole import whole
from bucky.store.headers import read_header
from bucky.store.objects import MemoryObjectStore, put_bytes

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
CT = "CT_small.dcm"
SPECTROSCOPY, RAW, SEGMENTATION = (
    "1.2.840.10008.5.1.4.1.1.4.2",
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.66.4",
)
STRUCTURED_REPORT, PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1"
PARAMETRIC_MAP, RT_DOSE = "1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.481.2"
PRIVATE_CLASS, PRIVATE_SYNTAX = "1.3.12.2.1107.5.9.1", "1.2.840.113619.5.2.999"
DEFLATED = "1.2.840.10008.1.2.1.99"
Change = Callable[[Dataset], object]


def of_class(uid: str, *without: str) -> Change:
    """Return what makes another SOP class of a data set, without some of its elements."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = UID(uid)
        for keyword in without:
            delattr(dataset, keyword)

    return change


def shortened(dataset: Dataset) -> None:
    """Take the last two bytes of the pixels; the length of their element agrees with what is left."""
    dataset.PixelData = dataset.PixelData[:-2]


def without_pixels(dataset: Dataset) -> None:
    """Take all of the pixels."""
    del dataset.PixelData


def elsewhere(dataset: Dataset) -> None:
    """Say where the pixels are, instead of having them."""
    del dataset.PixelData
    dataset.PixelDataProviderURL = "https://pacs.example/pixels"


def floating(bits: int, count: int) -> Change:
    """Return what makes the pixels floating point numbers, so many of them."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = UID(PARAMETRIC_MAP)
        del dataset.PixelData
        if bits == 32:
            dataset.FloatPixelData = bytes(4 * count)
        else:
            dataset.DoubleFloatPixelData = bytes(8 * count)

    return change


def coloured(photometric: str, samples: int, length: int) -> Change:
    """Return what makes colours of 8 bits of the pixels, of so many bytes."""

    def change(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = photometric
        dataset.SamplesPerPixel, dataset.BitsAllocated = samples, 8
        dataset.PixelData = bytes(length)

    return change


def with_values(**values: object) -> Change:
    """Return what sets values."""

    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def single_bits(length: int) -> Change:
    """Return what makes a segmentation of one bit for each pixel, of so many bytes."""

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = UID(SEGMENTATION)
        dataset.BitsAllocated, dataset.NumberOfFrames = 1, 3
        dataset.PixelData = bytes(length)

    return change


def written(change: Change | None, name: str = CT, syntax: str | None = None) -> bytes:
    """Return a file of pydicom's that was changed; in another transfer syntax only by what its head says."""
    dataset = pydicom.dcmread(TEST_FILES / name)
    if change is not None:
        change(dataset)
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset)
    content = target.getvalue()
    return content if syntax is None else with_head(content[split(content)[1] :], syntax)


def with_head(data_set: bytes, syntax: str) -> bytes:
    """Return a file of a data set, which is said to be in a transfer syntax."""
    return file_header(FileMeta("1.2", "1.3", syntax)) + data_set


def found(content: bytes) -> str | None:
    """Return what the index says of a file, which must be what is said before a copy is made of it."""
    store = MemoryObjectStore()
    put_bytes(store, "k", content)
    return read_header(store, "k", len(content)).problem


def refused(content: bytes) -> str | None:
    """Return why nothing is made of a file."""
    meta, start = split(content)
    try:
        whole(StreamSource(io.BytesIO(content)), start, meta.transfer_syntax_uid)
    except MalformedDataSet as error:
        return str(error)
    return None


DAMAGED = {
    "two bytes too few": (shortened, "(7FE0,0010) PixelData has 32766 of the 32768 bytes"),
    "no bytes": (with_values(PixelData=b""), "has 0 of the 32768"),
    "one frame too few": (with_values(NumberOfFrames=2), "has 32768 of the 65536"),
    "one colour too few": (with_values(SamplesPerPixel=3), "has 32768 of the 98304"),
    "half of the colours": (coloured("YBR_FULL_422", 3, 32766), "has 32766 of the 32768"),
    "a bit too few": (single_bits(6142), "has 6142 of the 6144"),
    "too few floating point numbers": (floating(32, 128 * 128 - 1), "FloatPixelData has 65532 of the 65536"),
    "too few long ones": (floating(64, 128 * 128 - 1), "DoubleFloatPixelData has 131064 of the 131072"),
    "an image without pixels": (without_pixels, "it is an image (CT Image Storage) without (7FE0,0010) PixelData"),
    "a segmentation without pixels": (of_class(SEGMENTATION, "PixelData"), "an image (Segmentation Storage) without"),
    "a class that nobody knows": (of_class("1.2.840.10008.999", "PixelData"), "it is an image without"),
    "a dose with rows and no pixels": (of_class(RT_DOSE, "PixelData"), "an image (RT Dose Storage) without"),
}
SOUND = {
    "as it was": None,
    "padding behind the pixels": lambda dataset: setattr(dataset, "PixelData", dataset.PixelData + bytes(512)),
    "a padding element": with_values(DataSetTrailingPadding=bytes(100)),
    "pixels that are elsewhere": elsewhere,
    "floating point numbers": floating(32, 128 * 128),
    "long ones": floating(64, 128 * 128),
    "colours of two pixels at once": coloured("YBR_FULL_422", 3, 2 * 128 * 128),
    "a palette": coloured("PALETTE COLOR", 1, 128 * 128),
    "three frames of single bits": single_bits(6144),
    "frames that are no number": with_values(NumberOfFrames=None),
    "nobody says how many rows": of_class(RAW, "Rows"),
    "a report": of_class(STRUCTURED_REPORT, "PixelData", "Rows", "Columns", "BitsAllocated"),
    "a presentation state": of_class(PRESENTATION_STATE, "PixelData", "Rows", "Columns", "BitsAllocated"),
    "a dose of numbers alone": of_class(RT_DOSE, "PixelData", "Rows", "Columns", "BitsAllocated"),
    "a spectrum, which has rows": of_class(SPECTROSCOPY, "PixelData", "BitsAllocated"),
    "raw data, whatever it has": of_class(RAW, "PixelData"),
    "a vendor's own class": of_class(PRIVATE_CLASS, "PixelData"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_missing_of_the_pixels_is_said(name: str) -> None:
    """Though no length contradicts another, the image is not whole: that is said, with the numbers."""
    change, problem = DAMAGED[name]
    content = written(change)
    assert problem in (found(content) or "")
    assert found(content) == refused(content)


@pytest.mark.parametrize("name", SOUND)
def test_what_the_standard_allows_is_no_damage(name: str) -> None:
    """Who is told of damage that is none will not believe in the next."""
    content = written(SOUND[name])
    assert (found(content), refused(content)) == (None, None)


def test_a_length_in_a_vendors_own_transfer_syntax_is_free() -> None:
    """It may be compressed, for all anybody knows."""
    assert found(written(shortened, syntax=PRIVATE_SYNTAX)) is None


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_the_length_of_compressed_pixels_is_free(name: str) -> None:
    """Their bytes are fewer than the header's numbers make."""
    assert found((TEST_FILES / name).read_bytes()) is None


def test_compressed_pixels_without_a_fragment_are_missing() -> None:
    """An empty offset table and an end are no image."""
    content = (TEST_FILES / "JPEG2000.dcm").read_bytes()
    at = content.rindex(b"\xe0\x7f\x10\x00") + 12
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    offsets = b"\xfe\xff\x00\xe0\x04\0\0\0\0\0\0\0"
    for table in (offsets, b"\xfe\xff\x00\xe0\0\0\0\0"):
        assert "no fragments" in (found(content[:at] + table + end) or "")


def with_group_length(content: bytes) -> bytes:
    """Return a file with the length of the pixels' group before them, as older ones have it (PS3.5 §7.2)."""
    at = content.rindex(b"\xe0\x7f\x10\x00OW")
    return content[:at] + b"\xe0\x7f\0\0UL\x04\0" + (len(content) - at).to_bytes(4, "little") + content[at:]


def with_offset_table(content: bytes) -> bytes:
    """Return a file with an extended offset table before its pixels (PS3.3 §C.7.6.3.1.8)."""
    at = content.rindex(b"\xe0\x7f\x10\x00OB")
    tables = [b"\xe0\x7f" + number + b"\0OV\0\0\x08\0\0\0" + bytes(8) for number in (b"\x01", b"\x02")]
    return content[:at] + b"".join(tables) + content[at:]


def deflated(content: bytes) -> bytes:
    """Return the file deflated (PS3.5 §A.5)."""
    deflater = zlib.compressobj(0, wbits=-15)
    return with_head(deflater.compress(content[split(content)[1] :]) + deflater.flush(), DEFLATED)


def unpadded(name: str) -> bytes:
    """Return a file whose pixels are its last element."""
    dataset = pydicom.dcmread(TEST_FILES / name)
    dataset.pop(0xFFFCFFFC, None)
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset)
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(unpadded(CT), id="plain"),
        pytest.param(with_group_length(unpadded(CT)), id="group length"),
        pytest.param(unpadded("JPEG2000.dcm"), id="fragments"),
        pytest.param(with_offset_table(unpadded("JPEG2000.dcm")), id="offset table"),
        pytest.param(deflated(unpadded(CT)), id="deflated"),
    ],
)
@pytest.mark.parametrize("count", [9, 100, 240])
def test_a_file_that_ends_within_its_pixels_is_not_whole(content: bytes, count: int) -> None:
    """Whatever stands before the pixels, and however they are kept, their end must be there."""
    assert found(content) is None
    assert "cut short" in (found(content[:-count]) or "")
