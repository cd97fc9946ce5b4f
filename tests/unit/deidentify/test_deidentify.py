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
from bucky.given import Given
from bucky.handlers import Context
from bucky.log import get_logger
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
        after = deidentified(before, KEY)
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


def given(**changes: Any) -> Given:
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
    return Given.model_validate(
        {
            **{"id": "1", "decided_at": "2026-11-01T00:00:00Z", "function": "deidentify", "rule": "r"},
            **{"rule_version": 1, "parameters": {}, "unit": "study", "study_instance_uid": "1.2"},
            "instances": [instance],
        }
    )


def test_what_shows_text_in_its_pixels_is_refused(tmp_path: Path) -> None:
    """A secondary capture, or an image that says that text is burned in, is not let through as if it were clean."""
    settings = Settings.load({"BUCKY_SECRETS_DIR": str(tmp_path)})
    (tmp_path / SECRET).write_bytes(KEY)
    ctx = Context("deidentify", get_logger("test"))
    with pytest.raises(Permanent, match="shows text in its pixels"):
        list(process(given(), ctx, settings))
    dataset = read(SAMPLE)
    dataset.BurnedInAnnotation = "YES"
    with pytest.raises(Permanent, match="Burned In"):
        deidentified(dataset, KEY)


def test_without_its_key_it_waits(tmp_path: Path) -> None:
    """A secret that was not made yet is no reason for a dead letter, and none to use an empty key."""
    settings = Settings.load({"BUCKY_SECRETS_DIR": str(tmp_path)})
    with pytest.raises(Retriable, match="deidentify-key"):
        list(process(given(), Context("deidentify", get_logger("test")), settings))
