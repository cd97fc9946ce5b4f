"""Comparing two DICOM files: what counts as a difference, what does not, and what is said when nobody can tell."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from bucky.differences import PixelComparison, compared, in_words
from bucky.differences.files import compare_files


def sample(name: str = "CT_small.dcm") -> FileDataset:
    """Read one of pydicom's files."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return dcmread(path)


def written(folder: Path, name: str, change: Callable[[FileDataset], object], source: str = "CT_small.dcm") -> Path:
    """Write a changed copy."""
    dataset = sample(source)
    change(dataset)
    dataset.save_as(folder / name, enforce_file_format=True)
    return folder / name


def same(dataset: FileDataset) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("source", "syntax"),
    [
        ("CT_small.dcm", RLELossless),
        ("CT_small.dcm", JPEG2000Lossless),
        ("CT_small.dcm", JPEGLSLossless),
        ("CT_small.dcm", ImplicitVRLittleEndian),
        ("CT_small.dcm", DeflatedExplicitVRLittleEndian),
        ("examples_rgb_color.dcm", RLELossless),
        ("examples_rgb_color.dcm", JPEG2000Lossless),
    ],
)
def test_another_transfer_syntax_is_no_difference(tmp_path: Path, source: str, syntax: str) -> None:
    """The same instance sent compressed, deflated or in implicit VR says the same: pixels are compared decoded."""

    def encoded(dataset: FileDataset) -> None:
        if syntax in {ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian}:
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
        else:
            dataset.compress(syntax, generate_instance_uid=False)

    def explicit(dataset: FileDataset) -> None:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            dataset.decompress(generate_instance_uid=False)

    first = written(tmp_path, "first.dcm", explicit, source)
    second = sample(source)
    explicit(second)
    encoded(second)
    second.save_as(
        tmp_path / "second.dcm",
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=True,
        enforce_file_format=True,
    )
    found = compare_files(first, tmp_path / "second.dcm")
    assert (found.pixels, found.attributes, found.problem) == (PixelComparison.SAME, (), "")
    assert found.transfer_syntaxes[1] == syntax
    assert found.same_content
    assert not found.same_bytes


def test_a_corrected_name_is_found_and_named_without_its_value(tmp_path: Path) -> None:
    """A correction is shown attribute by attribute; the phrase that logs and reasons get has no value in it."""

    def corrected(dataset: FileDataset) -> None:
        dataset.PatientName = "Corrected^Name"
        del dataset.PatientSex

    found = compare_files(written(tmp_path, "a", same), written(tmp_path, "b", corrected))
    assert [(one.path, one.first, one.second) for one in found.attributes] == [
        ("00100010", "CompressedSamples^CT1", "Corrected^Name"),
        ("00100040", "O", None),
    ]
    assert found.pixels is PixelComparison.SAME
    assert not found.same_content
    assert in_words(found) == "other values of PatientName, PatientSex"


def test_one_sample_that_differs_is_seen_through_a_compression(tmp_path: Path) -> None:
    """Pixels are equal when every sample is: one count of one pixel makes them other pixels."""

    def touched(dataset: FileDataset) -> None:
        pixels = np.array(dataset.pixel_array)
        pixels[5, 7] += 1
        dataset.PixelData = pixels.tobytes()
        dataset.compress(RLELossless, generate_instance_uid=False)

    found = compare_files(written(tmp_path, "a", same), written(tmp_path, "b", touched))
    assert found.pixels is PixelComparison.OTHER
    assert in_words(found) == "other pixels"


def test_an_inverted_image_is_not_the_same_content(tmp_path: Path) -> None:
    """The same samples as MONOCHROME1 are shown black for white, also in another transfer syntax."""

    def inverted(dataset: FileDataset) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.compress(RLELossless, generate_instance_uid=False)

    found = compare_files(written(tmp_path, "a", same), written(tmp_path, "b", inverted))
    assert [one.name for one in found.attributes] == ["PhotometricInterpretation"]
    assert not found.same_content


def test_attributes_in_sequences_and_private_ones_are_compared(tmp_path: Path) -> None:
    """A difference deep in an item, an item more, and a private value: none may pass for the same."""

    def changed(dataset: FileDataset) -> None:
        dataset.OtherPatientIDsSequence[0].PatientID = "X"
        block = dataset.private_block(0x0029, "BUCKYTEST", create=True)
        block.add_new(1, "LO", "value")

    found = compare_files(written(tmp_path, "a", same), written(tmp_path, "b", changed))
    assert [one.path for one in found.attributes] == ["00101002[1].00100020", "00290011", "00291101"]
    assert found.attributes[2].name == "(0029,1101)"


def test_a_private_value_in_implicit_vr_is_the_same_value(tmp_path: Path) -> None:
    """Implicit VR knows no VR of a private attribute: its bytes tell."""

    def private(dataset: FileDataset) -> None:
        block = dataset.private_block(0x0029, "BUCKYTEST", create=True)
        block.add_new(1, "LO", "odd")
        block.add_new(2, "US", 7)

    first = written(tmp_path, "a", private)
    second = sample()
    private(second)
    second.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    second.save_as(tmp_path / "b", implicit_vr=True, little_endian=True, enforce_file_format=True)
    assert compare_files(first, tmp_path / "b").attributes == ()


def test_text_in_another_character_set_is_the_same_text(tmp_path: Path) -> None:
    """A name is what it says, not its bytes; that the character set differs is said."""

    def latin(dataset: FileDataset) -> None:
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", "Müller^Änne"

    def unicode(dataset: FileDataset) -> None:
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", "Müller^Änne"

    found = compare_files(written(tmp_path, "a", latin), written(tmp_path, "b", unicode))
    assert [one.name for one in found.attributes] == ["SpecificCharacterSet"]


def test_objects_without_pixels_are_compared(tmp_path: Path) -> None:
    """A plan or a report has only a header."""
    found = compare_files(written(tmp_path, "a", same, "rtplan.dcm"), written(tmp_path, "b", same, "rtplan.dcm"))
    assert found.same_bytes

    def other(dataset: FileDataset) -> None:
        dataset.RTPlanLabel = "other"

    found = compare_files(written(tmp_path, "a", same, "rtplan.dcm"), written(tmp_path, "c", other, "rtplan.dcm"))
    assert (found.pixels, [one.name for one in found.attributes]) == (PixelComparison.NONE, ["RTPlanLabel"])


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_what_cannot_be_decoded_is_never_called_the_same(tmp_path: Path, damage: str) -> None:
    """A damaged compressed image is neither equal nor different: the comparison says that it does not know."""

    def compressed(dataset: FileDataset) -> None:
        dataset.compress(RLELossless, generate_instance_uid=False)

    first, second = written(tmp_path, "a", same), written(tmp_path, "b", compressed)
    content = second.read_bytes()
    second.write_bytes(content[:-20_000] if damage == "cut" else content[:-20_000] + b"\xff" * 20_000)
    found = compared(first, second)
    assert found.pixels in {PixelComparison.UNKNOWN, PixelComparison.OTHER}
    assert not found.same_content


def test_a_comparison_takes_place_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What the process answers is what was found; what is no DICOM file is said to be unreadable."""

    def corrected(dataset: FileDataset) -> None:
        dataset.PatientName = "Müller^Änne"
        dataset.SpecificCharacterSet = "ISO_IR 192"

    first, second = written(tmp_path, "a", same), written(tmp_path, "b", corrected)
    assert compared(first, second) == compare_files(first, second)
    second.write_bytes(b"nothing")
    assert compared(first, second).problem == "one of them cannot be read to its end"
