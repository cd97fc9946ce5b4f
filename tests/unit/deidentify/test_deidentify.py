"""The example function: nothing of the patient comes through; where the same goes in, the same comes out."""

import io
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from bucky.errors import Permanent, Retriable
from bucky.log import get_logger
from bucky.serve.handlers import Context
from bucky.serve.processing_input import ProcessingInput
from bucky.settings import Settings
from deidentify.handler import KEPT_TEXTS, SECRET, TEXTS, TIMES, deidentified, process
from tests.support.dicom.sample_instances import SAMPLE

KEY = b"a key"
FILES = Path(str(pydicom.data.__file__)).parent / "test_files"
NAMES = ("CT_small.dcm", "MR_small.dcm", "rtplan.dcm", "rtdose.dcm", "test-SR.dcm", "waveform_ecg.dcm", "JPEG2000.dcm")


def read(path: Path) -> Any:
    """Read a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def everything(dataset: Dataset) -> list[Any]:
    """Return every element at every depth."""
    found = []
    for element in dataset:
        found.append(element)
        if element.VR == "SQ":
            found += [each for item in element.value for each in everything(item)]
    return found


def written(dataset: Dataset) -> bytes:
    """Return the file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_no_name_text_or_time_comes_through(name: str) -> None:
    """Of every kind of object, no person's name, free text, date or private element is left at any depth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = read(FILES / name)
        said = {str(one.value) for one in everything(before) if one.VR in {"PN", "DA"} and str(one.value).strip()}
        uids = {str(one.value) for one in everything(before) if one.VR == "UI" and one.VM == 1}
        after = deidentified(before, KEY, frozenset({"secondary capture"}))
        elements = everything(after)
        file = written(after)
    made = {"PatientID", "PatientName", "DeidentificationMethod"}
    for element in elements:
        assert not element.tag.is_private
        if element.VR in TEXTS and element.keyword not in KEPT_TEXTS | made:
            assert not element.value, element.keyword
        if element.VR in TIMES:
            assert not element.value, element.keyword
        if element.VR == "UI" and element.value and element.VM == 1:
            assert element.value.startswith("1.2.840.10008.") or str(element.value) not in uids
    for value in said:
        assert value.encode("ascii", "replace") not in file
    assert after.PatientIdentityRemoved == "YES"


def test_the_same_makes_the_same_and_what_belonged_together_still_does() -> None:
    """Calling the function again makes no second instance; a study stays a study; another key makes another patient."""
    first, again, other = (deidentified(read(SAMPLE), key) for key in (KEY, KEY, b"another"))
    assert written(first) == written(again)
    assert first.SOPInstanceUID != read(SAMPLE).SOPInstanceUID
    assert (first.StudyInstanceUID, first.PatientID) == (again.StudyInstanceUID, again.PatientID)
    assert first.StudyInstanceUID != other.StudyInstanceUID
    assert first.PatientID != other.PatientID
    assert first.PixelData == read(SAMPLE).PixelData


def test_references_follow_what_they_refer_to() -> None:
    """A reference to an instance names its new UID, in sequences and in lists."""
    dataset, referred = read(SAMPLE), read(SAMPLE)
    item = Dataset()
    item.ReferencedSOPInstanceUID = referred.SOPInstanceUID
    dataset.ReferencedImageSequence = Sequence([item])
    assert deidentified(dataset, KEY).ReferencedImageSequence[0].ReferencedSOPInstanceUID == dataset.SOPInstanceUID


def given(**changes: Any) -> ProcessingInput:
    """Return what the function is given: an instance that must not be fetched."""
    instance = {
        **dict.fromkeys(("study_instance_uid", "series_instance_uid", "sop_instance_uid"), "1.2"),
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sha256": "0" * 64,
        "size": 1,
        "bucket": "b",
        "key": "k",
        "url": "http://127.0.0.1:9/",
        **changes,
    }
    return ProcessingInput.model_validate(
        {
            **{"id": "1", "decided_at": "2026-11-01T00:00:00Z", "function": "deidentify", "rule": "r"},
            **{"rule_version": 1, "parameters": {}, "unit": "study", "study_instance_uid": "1.2"},
            "instances": [instance],
        }
    )


def test_what_shows_text_in_its_pixels_is_refused(tmp_path: Path) -> None:
    """A secondary capture is not even fetched, and a rule may allow what is known to be clean, if it can be spelt."""
    settings = Settings.load({"BUCKY_SECRETS_DIR": str(tmp_path)})
    (tmp_path / SECRET).write_bytes(KEY)
    ctx = Context("deidentify", get_logger("test"))
    with pytest.raises(Permanent, match="secondary capture"):
        list(process(given(), ctx, settings))
    allowing = given().model_copy(update={"parameters": {"allow": "Secondary  capture, video"}})
    with pytest.raises(Retriable, match="cannot be fetched"):
        list(process(allowing, ctx, settings))
    with pytest.raises(Permanent, match="names no kind"):
        list(process(given().model_copy(update={"parameters": {"allow": "everything"}}), ctx, settings))


STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        *(("SOPClassUID", STORAGE + part, "ultrasound") for part in ("3", "3.1", "6", "6.1", "6.2", "6.3")),
        *(("SOPClassUID", STORAGE + part, "secondary capture") for part in ("7", "7.1", "7.2", "7.3", "7.4")),
        *(
            ("SOPClassUID", STORAGE + part, "visible light")
            for part in (
                "77.1",
                "77.2",
                "77.1.1",
                "77.1.1.1",
                "77.1.2",
                "77.1.3",
                "77.1.4.1",
                "77.1.5.1",
                "77.1.6",
                "77.1.7",
            )
        ),
        *(("SOPClassUID", STORAGE + part, "document") for part in ("104.1", "104.2", "104.3")),
        ("SOPClassUID", "1.2.840.10008.5.1.1.30", "document"),
        ("SOPClassUID", "1.3.12.2.1107.5.9.1", "private class"),
        ("Modality", " us", "ultrasound"),
        ("Modality", "ES", "visible light"),
        ("Modality", "XC", "visible light"),
        ("Modality", "OT", "secondary capture"),
        ("ConversionType", "WSD", "secondary capture"),
        ("ConversionType", " sd ", "secondary capture"),
        ("DateOfSecondaryCapture", "20240101", "secondary capture"),
        ("SecondaryCaptureDeviceManufacturer", "X", "secondary capture"),
        ("SecondaryCaptureDeviceManufacturerModelName", "X", "secondary capture"),
        ("SecondaryCaptureDeviceSoftwareVersions", "X", "secondary capture"),
        ("ImageType", ["DERIVED", "SECONDARY", "SCREEN SAVE"], "screen save"),
        ("ImageType", ["DERIVED", "SECONDARY", " screen save"], "screen save"),
        ("ImageType", ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"], "screen save"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "OTHER", "CSA REPORT"], "screen save"),
        ("SeriesDescription", "Screen Save", "screen save"),
        ("SeriesDescription", "Patient Protocol", "screen save"),
        ("SeriesDescription", "Dose Report", "screen save"),
        *(("BurnedInAnnotation", value, "burned in annotation") for value in ("YES", " YES", "yes ", "Y", "TRUE", "1")),
        ("RecognizableVisualFeatures", "YES", "recognizable visual features"),
        ("OverlayBitPosition", 12, "overlay in pixels"),
    ],
)
def test_every_sign_of_text_in_the_pixels_is_seen(keyword: str, value: Any, kind: str) -> None:
    """Class, modality, type, attribute: what says or suggests it is refused unless the rule allows that kind."""
    dataset = signed(keyword, value)
    with pytest.raises(Permanent, match=f"{kind}: its {keyword}"):
        deidentified(dataset, KEY)
    allowed = frozenset({kind, "private class"})
    assert deidentified(signed(keyword, value), KEY, allowed).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("BurnedInAnnotation", "NO"),
        ("BurnedInAnnotation", " no"),
        ("BurnedInAnnotation", ""),
        ("ConversionType", ""),
        ("ImageType", ["DERIVED", "SECONDARY", "PROTON_DENSITY"]),
        ("SeriesDescription", "Low dose lung screening"),
        ("SOPClassUID", STORAGE + "2.1"),
        ("SOPClassUID", STORAGE + "30"),
    ],
)
def test_what_says_nothing_of_text_goes_through(keyword: str, value: Any) -> None:
    """Ordinary images are not refused for words that only look like a sign."""
    assert deidentified(signed(keyword, value), KEY).PatientIdentityRemoved == "YES"


def signed(keyword: str, value: Any) -> Any:
    """Return a CT image with an attribute."""
    dataset = read(SAMPLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if keyword == "OverlayBitPosition":
            dataset.add_new(0x60000102, "US", value)
        else:
            setattr(dataset, keyword, value)
    return dataset


def test_a_video_is_refused_whatever_its_class() -> None:
    """A transfer syntax of video says that it was filmed."""
    dataset = read(SAMPLE)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    with pytest.raises(Permanent, match="video"):
        deidentified(dataset, KEY)


def test_padding_makes_no_other_patient() -> None:
    """An ID is the same pseudonym with spaces around it, and a UID with padding the same UID."""
    plain, padded = read(SAMPLE), read(SAMPLE)
    padded.PatientID = f"  {plain.PatientID} "
    assert deidentified(padded, KEY).PatientID == deidentified(plain, KEY).PatientID


def test_without_its_key_it_waits(tmp_path: Path) -> None:
    """A secret that was not made yet is no reason for a dead letter, and none to use an empty key."""
    settings = Settings.load({"BUCKY_SECRETS_DIR": str(tmp_path)})
    with pytest.raises(Retriable, match="deidentify-key"):
        list(process(given(), Context("deidentify", get_logger("test")), settings))
