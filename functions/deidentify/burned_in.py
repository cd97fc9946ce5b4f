"""What says, or suggests, that the pixels of an instance show text or a face (PS3.15 §E.3.1 and §E.3.2).

One table: each `BurnedIn` has a name, by which a rule's parameter `allow` lets it through, and what tells it.
What CTP's filter for burned-in pixels looks at is in it. Values count without their padding and their case.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from pydicom.dataset import Dataset

from bucky.dicom.json_model import UNDECODABLE
from bucky.dicom.padding import without_padding
from bucky.errors import Permanent

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_PRINT = "1.2.840.10008.5.1.1."
_STANDARD = "1.2.840.10008."
_MAX_SHOWN = 64


class BurnedIn(NamedTuple):
    """A kind of instance, or of attribute, that goes with text in the pixels."""

    name: str
    classes: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    """Keywords of attributes that only such instances have a value in."""


KINDS = (
    BurnedIn(
        "ultrasound",
        # 3 and 6 are the retired ones.
        tuple(_STORAGE + part for part in ("3", "6")),
        ("US", "IVUS", "BDUS", "EC", "CD", "DD"),
        ("SequenceOfUltrasoundRegions",),
    ),
    BurnedIn(
        "secondary capture",
        (_STORAGE + "7",),
        ("SC", "OT", "DF"),
        (
            "ConversionType",
            "DateOfSecondaryCapture",
            "TimeOfSecondaryCapture",
            "SecondaryCaptureDeviceID",
            "SecondaryCaptureDeviceManufacturer",
            "SecondaryCaptureDeviceManufacturerModelName",
            "SecondaryCaptureDeviceSoftwareVersions",
            "VideoImageFormatAcquired",
            "DigitalImageFormatAcquired",
        ),
    ),
    BurnedIn(
        "visible light",
        (*(_STORAGE + part for part in ("77.1", "77.2", "81.1", "82.1", "14.1", "14.2")),),
        (
            *("ES", "XC", "GM", "SM", "DMS", "TG", "OP", "OPT", "OPTENF", "OPTBSV", "OPM", "IVOCT", "OCT"),
            *("AS", "CP", "CS", "DM", "EPS", "FA", "FS", "LP", "VF", "VIDD"),
        ),
    ),
    BurnedIn(
        "document",
        (_STORAGE + "104", *(_PRINT + part for part in ("27", "29", "30"))),
        ("DOC", "HC"),
        ("EncapsulatedDocument", "HardcopyCreationDeviceID", "HardcopyDeviceManufacturer"),
    ),
    BurnedIn("standalone overlay", (_STORAGE + "8",)),
)
PRIVATE_CLASS, VIDEO, SCREEN_SAVE = "private class", "video", "screen save"
BURNED_IN, RECOGNIZABLE, OVERLAY = "burned in annotation", "recognizable visual features", "overlay in pixels"
NAMES = (*(kind.name for kind in KINDS), PRIVATE_CLASS, VIDEO, SCREEN_SAVE, BURNED_IN, RECOGNIZABLE, OVERLAY)

_VIDEO_SYNTAXES = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-9](\.1)?|1\.2\.840\.10008\.1\.2\.7\.\d+").fullmatch
_SAVED_TYPE = re.compile(r"SAVE|SCREEN|CAPTURE|SNAPSHOT|SCANNED|REPORT|DOSE|PATIENT|PRINT|\bPROT(OCOL)?\b").search
_SAVED_TEXT = re.compile(
    r"SAVE|SCREEN[ _-]?(SHOT|CAP)|CAPTURE|SNAPSHOT|SCANNED|REPORT|"
    r"DOSE[ _-]?(INFO|RECORD|SUMMARY)|PATIENT[ _-]?PROTOCOL"
).search
_NOT_BURNED_IN = frozenset({"", "NO", "N"})


def of_class(sop_class_uid: str) -> str | None:
    """Return the kind that a SOP class is of, if it is of one."""
    uid = without_padding(sop_class_uid, "UI")
    for kind in KINDS:
        if any(f"{uid}.".startswith(f"{one}.") for one in kind.classes):
            return kind.name
    return None if uid.startswith(_STANDARD) else PRIVATE_CLASS


def suspicions(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield each kind that an instance is of, and the attribute that says so; raise `Permanent` for unreadable ones."""
    if (of := of_class(_text(dataset, "SOPClassUID"))) is not None:
        yield of, "SOPClassUID"
    modality = _text(dataset, "Modality")
    for kind in KINDS:
        if modality in kind.modalities:
            yield kind.name, "Modality"
        yield from ((kind.name, keyword) for keyword in kind.filled if _is_filled(dataset, keyword))
    for name, keyword, is_so in _TESTS:
        if any(is_so(value) for value in _texts(dataset, keyword)):
            yield name, keyword
    meta = getattr(dataset, "file_meta", None)
    if meta is not None and _VIDEO_SYNTAXES(_text(meta, "TransferSyntaxUID")):
        yield VIDEO, "TransferSyntaxUID"
    for group in {tag.group for tag in dataset.keys() if tag.group & 0xFF01 == 0x6000}:  # noqa: SIM118 - their tags
        in_pixels = (group, 0x0102) in dataset and dataset[group, 0x0102].value not in (0, None, "")
        if in_pixels or ((group, 0x0010) in dataset and (group, 0x3000) not in dataset):
            yield OVERLAY, "OverlayBitPosition"


def allowed_by(parameter: object) -> frozenset[str]:
    """Return the kinds that a rule's parameter `allow` names, with commas between; raise `Permanent` for others."""
    names = frozenset(" ".join(one.split()).casefold() for one in str(parameter or "").split(",")) - {""}
    if unknown := sorted(names - set(NAMES)):
        shown = ", ".join(unknown)[:_MAX_SHOWN]
        raise Permanent(
            f"the rule's parameter `allow` names no kind of instance: {shown}; it can name {', '.join(NAMES)}"
        )
    return names


_TESTS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    (SCREEN_SAVE, "ImageType", _SAVED_TYPE),
    (SCREEN_SAVE, "SeriesDescription", _SAVED_TEXT),
    (SCREEN_SAVE, "ImageComments", _SAVED_TEXT),
    (SCREEN_SAVE, "DerivationDescription", _SAVED_TEXT),
    (BURNED_IN, "BurnedInAnnotation", lambda value: value not in _NOT_BURNED_IN),
    (RECOGNIZABLE, "RecognizableVisualFeatures", lambda value: value not in _NOT_BURNED_IN),
)


def _text(dataset: Dataset, keyword: str) -> str:
    return next(iter(_texts(dataset, keyword)), "")


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    """Return an attribute's values without padding, in upper case."""
    try:
        value = dataset.get(keyword)
    except UNDECODABLE:
        raise Permanent(
            f"{keyword} cannot be read, so nobody can tell whether the pixels show text: nothing was given on; leave "
            "such instances out by the rule's condition"
        ) from None
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    several = [] if value is None else [value] if isinstance(value, str) else list(value)
    return [without_padding(str(one), "CS").upper() for one in several]


def _is_filled(dataset: Dataset, keyword: str) -> bool:
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = None if element is None else element.value
    if isinstance(value, bytes):
        return bool(value.strip(b"\0 "))
    return bool(value if value is None or not isinstance(value, str) else value.strip())
