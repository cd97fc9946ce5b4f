"""The demo's instances: real ones, from the files pydicom brings for its own tests, odd ones included.

Many of these files hold one instance in several encodings, under one SOP Instance UID. An archive rightly
keeps the first of them current, and the others as conflicts. So that each can travel as an instance of its
own, all but the first get a new UID of the same length; no other byte is changed.
"""

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pydicom.data
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from bucky.dicom.foreign_file import ForeignFile, NotAnInstance, Unsendable, read_foreign_file
from bucky.errors import Permanent

FOLDERS = ("test_files", "charset_files", "palettes")
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_UID = re.compile(r"[0-9.]{1,64}")


class Expected(StrEnum):
    """What must become of a file."""

    ACCEPTED = "accepted"
    """Stored, indexed, routed and delivered."""
    REFUSED = "refused"
    """The edge must refuse it: it has no place in the patient, study, series, instance order."""
    UNSENDABLE = "unsendable"
    """No sender can send it: `bucky send` says why."""


@dataclass(frozen=True, slots=True)
class DemoFile:
    """One file to send; `sha256` and `size` (bytes) are of its data set, empty and 0 when unsendable."""

    path: Path
    source: str
    expected: Expected
    reason: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    sha256: str = ""
    size: int = 0
    new_uid: bool = False


def demo_files(target: Path) -> list[DemoFile]:
    """Copy the bundled files below `target` and say what must become of each; the same every time."""
    used: set[str] = set()
    return [_prepared(source, name, target / name, used) for source, name in bundled_files()]


def bundled_files() -> Iterator[tuple[Path, str]]:
    """Yield pydicom's DICOM files and their names below its data folder; its DICOMDIRs are no instances."""
    base = Path(pydicom.data.__file__).parent
    for source in sorted(path for folder in FOLDERS for path in (base / folder).rglob("*") if path.is_file()):
        try:
            read_foreign_file(source)
        except NotAnInstance:
            if source.suffix != ".dcm" or source.name.startswith("DICOMDIR"):
                continue
        except Unsendable:
            pass
        yield source, source.relative_to(base).as_posix()


def _prepared(source: Path, name: str, path: Path, used: set[str]) -> DemoFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray(source.read_bytes())
    try:
        file = read_foreign_file(source)
    except Permanent as error:
        path.write_bytes(content)
        return DemoFile(path, name, Expected.UNSENDABLE, str(error))
    uid = file.sop_instance_uid
    wrong = _wrong(file)
    collides = uid in used and not wrong
    if collides:
        uid = _replace_uid(content, file, name)
    used.add(uid)
    path.write_bytes(content)
    return DemoFile(
        path=path,
        source=name,
        expected=Expected.REFUSED if wrong else Expected.ACCEPTED,
        reason=wrong,
        sop_instance_uid=uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        sha256=hashlib.sha256(content[file.offset :]).hexdigest(),
        size=file.size,
        new_uid=collides,
    )


def _wrong(file: ForeignFile) -> str:
    """Return what keeps a data set out of any archive: a UID it lacks (PS3.3 §C.7, §C.12.1), or its coding."""
    dataset = _read(file.path)
    first = dataset.get_item("SOPInstanceUID") if "SOPInstanceUID" in dataset else None
    syntax = UID(file.transfer_syntax_uid)
    if isinstance(first, RawDataElement) and first.is_implicit_VR != syntax.is_implicit_VR:
        return "its data set is not encoded in its transfer syntax"
    for keyword in _REQUIRED:
        value = str(dataset.get(keyword) or "")
        if not value:
            return f"its data set has no {keyword}"
        if not _UID.fullmatch(value):
            return f"its {keyword} is not a UID"
    return ""


def _replace_uid(content: bytearray, file: ForeignFile, name: str) -> str:
    """Give the instance another UID of the same length, in the data set and in the file meta information."""
    if file.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        raise Permanent(f"{name} is deflated and shares its SOP Instance UID: it cannot be given another")
    old = file.sop_instance_uid
    new = f"2.25.{int(hashlib.sha256(name.encode()).hexdigest(), 16)}"[: len(old)]
    dataset = _read(file.path)
    for part, keyword in ((dataset, "SOPInstanceUID"), (dataset.file_meta, "MediaStorageSOPInstanceUID")):
        at = _value_offset(part, keyword)
        if at and content[at : at + len(old)] == old.encode():
            content[at : at + len(old)] = new.encode()
    return new


def _value_offset(dataset: Dataset | FileMetaDataset, keyword: str) -> int:
    """Return where in the file an element's value begins, or 0 when the element is not there."""
    if keyword not in dataset:
        return 0
    element = dataset.get_item(keyword)
    tell = element.value_tell if isinstance(element, RawDataElement) else getattr(element, "file_tell", 0)
    return int(tell or 0)


def _read(path: Path) -> pydicom.FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_REQUIRED))
