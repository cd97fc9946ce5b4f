"""DICOM files that others wrote, odd ones too: what a sender must know of one, and where its data set begins.

Only the file meta information and the first elements are decoded; the data set is sent as it stands.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import Tag
from pydicom.uid import MediaStorageDirectoryStorage

from bucky.errors import Permanent

_PREFIX_END = 132
_SOP_CLASS_UID, _SOP_INSTANCE_UID = Tag("SOPClassUID"), Tag("SOPInstanceUID")


class NotAnInstance(Permanent):
    """The file is not a DICOM instance, and was never meant to be sent."""


class Unsendable(Permanent):
    """The file is DICOM, but lacks what a C-STORE needs."""


@dataclass(frozen=True, slots=True)
class ForeignFile:
    """One instance in a file; `offset` and `size` are of its data set, in bytes."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int
    size: int


def read_foreign_file(path: Path) -> ForeignFile:
    """Read what sending a file takes; raise `NotAnInstance`, `Unsendable`, or `OSError`.

    The SOP class and instance are those in the data set; the file meta information, which may be stale,
    counts where the data set cannot be read.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every oddity, with values
        if file.read(_PREFIX_END)[128:] != b"DICM":
            raise NotAnInstance("not a DICOM file: the DICM prefix is missing (PS3.10 §7.1)")
        meta = _file_meta(file)
        offset = file.tell()
        size = file.seek(0, 2) - offset
        if _text(meta, "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise NotAnInstance("a DICOMDIR is a table of contents, not an instance")
        if size == 0:
            raise Unsendable("the file ends after its file meta information: there is no data set")
        transfer_syntax = _required(meta, "TransferSyntaxUID", "its transfer syntax is unknown")
        file.seek(0)
        first = _first_elements(file)
        return ForeignFile(
            path=path,
            sop_class_uid=_text(first, "SOPClassUID")
            or _required(meta, "MediaStorageSOPClassUID", "it names no SOP class"),
            sop_instance_uid=_text(first, "SOPInstanceUID")
            or _required(meta, "MediaStorageSOPInstanceUID", "it has no SOP Instance UID"),
            transfer_syntax_uid=transfer_syntax,
            offset=offset,
            size=size,
        )


def _file_meta(file: BinaryIO) -> Dataset:
    """Read group 0002 up to the first other element, whatever its group length says."""
    try:
        return read_dataset(
            file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, _vr, _length: tag.group != 2
        )
    except Exception as error:  # pydicom raises whatever malformed bytes lead it to
        raise Unsendable(f"its file meta information cannot be read ({type(error).__name__})") from error


def _first_elements(file: BinaryIO) -> Dataset:
    """Read the elements up to the SOP Instance UID; nothing when they cannot be decoded."""

    def past(tag: Any, _vr: str | None, _length: int) -> bool:
        return bool(tag > _SOP_INSTANCE_UID)

    try:
        return read_partial(file, stop_when=past, specific_tags=[_SOP_CLASS_UID, _SOP_INSTANCE_UID])
    except Exception:  # noqa: BLE001  whether the destination can read it is for the destination to say
        return Dataset()


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return value.strip("\0 ") if isinstance(value, str) else ""


def _required(dataset: Dataset, keyword: str, otherwise: str) -> str:
    uid = _text(dataset, keyword)
    if not uid:
        raise Unsendable(f"the file cannot be sent: {otherwise}")
    if not uid.isascii() or len(uid) > 64:
        raise Unsendable(f"the file cannot be sent: its {keyword} is not a UID (PS3.5 §9.1)")
    return uid
