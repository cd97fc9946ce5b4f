"""Takes out who the patient is, by what kind of value an element has rather than by a list of every name.

What it does of PS3.15 Table E.1-1 (Basic Application Level Confidentiality Profile), at every depth:

    removed    every person's name, text, title, age and address element that is not in `KEPT_TEXTS`; private
               elements, overlays, curves, unknown elements, and the elements in `REMOVED`
    emptied    dates and times (all of them), and the elements in `EMPTIED`
    replaced   every UID that is not one of DICOM's own, Patient ID and Patient's Name, by what an HMAC with the
               secret `deidentify-key` makes of it: instances that belonged together still do
    kept       pixels, numbers and codes

It cannot look at pixels, so it refuses images that say or are likely to have burned-in text, and documents. It
keeps no dates and no descriptions (no option of the profile), and is no substitute for a review of what it lets
through. The same input and key make the same bytes, so doing it again makes nothing new.
"""

import hashlib
import hmac
from collections.abc import Iterator

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from bucky.errors import Permanent, Retriable
from bucky.given import Given
from bucky.handlers import Context
from bucky.settings import Settings

SECRET = "deidentify-key"  # noqa: S105 - its name
METHOD = "Subset of PS3.15 Table E.1-1 by value representation"
STANDARD_UIDS = "1.2.840.10008."
MEDIA_STORAGE = "1.2.840.10008.5.1.4.1.1."

TEXTS = frozenset({"AE", "AS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"})
TIMES = frozenset({"DA", "DT", "TM"})
KEPT_TEXTS = frozenset(
    {
        "CodeMeaning",
        "CodeValue",
        "CodingSchemeDesignator",
        "CodingSchemeVersion",
        "ConvolutionKernel",
        "LUTExplanation",
        "Manufacturer",
        "ManufacturerModelName",
        "RescaleType",
        "SequenceName",
        "SoftwareVersions",
        "WindowCenterWidthExplanation",
    }
)
EMPTIED = ("AccessionNumber", "PatientSex", "ReferringPhysicianName", "StudyID")
REMOVED = frozenset(
    {
        "DataSetTrailingPadding",
        "DeidentificationMethodCodeSequence",
        "DigitalSignaturesSequence",
        "EncryptedAttributesSequence",
        "IconImageSequence",
        "MACParametersSequence",
        "ModifiedAttributesSequence",
        "OperatorIdentificationSequence",
        "OriginalAttributesSequence",
        "OtherPatientIDsSequence",
        "PatientSize",
        "PatientWeight",
        "PerformingPhysicianIdentificationSequence",
        "PersonIdentificationCodeSequence",
        "PhysiciansOfRecordIdentificationSequence",
        "PregnancyStatus",
        "ReferencedPatientSequence",
        "ReferringPhysicianIdentificationSequence",
        "RequestAttributesSequence",
        "SmokingStatus",
    }
)
# Ultrasound, secondary captures, photographs and video, documents: text is in the pixels as a matter of course.
LIKELY_BURNED_IN = tuple(
    MEDIA_STORAGE + part for part in ("3.1", "6.1", "6.2", "7", "77.1.1", "77.1.2", "77.1.4", "104")
)


def process(given: Given, ctx: Context, settings: Settings) -> Iterator[Dataset]:
    """Yield every instance without what says whose it is; raise `Permanent` rather than let one through."""
    key = _key(settings)
    for instance in given.instances:
        if any(f"{instance.sop_class_uid}.".startswith(f"{one}.") for one in LIKELY_BURNED_IN):
            raise Permanent(
                f"an instance is of a kind that shows text in its pixels ({instance.sop_class_uid}), which this "
                "function cannot read: leave it out by the rule's condition"
            )
        yield deidentified(instance.read(), key)
    ctx.log.info("deidentified", instances=len(given.instances), study_instance_uid=given.study_instance_uid)


def deidentified(dataset: Dataset, key: bytes) -> Dataset:
    """Return the data set changed in place; raise `Permanent` when its pixels say who the patient is."""
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        raise Permanent(
            "an instance says that its pixels show text (Burned In Annotation): this function cannot read it"
        )
    patient = f"{dataset.get('PatientID', '')}\n{dataset.get('IssuerOfPatientID', '')}"
    _clean(dataset, key)
    for keyword in EMPTIED:
        setattr(dataset, keyword, "")
    dataset.PatientID = f"DEID-{_hmac(key, patient)[:8].hex().upper()}"
    dataset.PatientName = dataset.PatientID
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta, dataset.preamble = meta, None
    return dataset


def _clean(dataset: Dataset, key: bytes) -> None:
    for tag in list(dataset.keys()):
        if _goes(tag, dataset[tag].VR, dataset[tag].keyword):
            del dataset[tag]
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value:
                _clean(item, key)
        elif element.VR == "UI":
            many = element.value if element.VM > 1 else [element.value]
            element.value = [_uid(key, one) for one in many] if element.value else element.value
        elif element.VR in TIMES:
            element.value = ""


def _goes(tag: BaseTag, vr: str, keyword: str) -> bool:
    if tag.is_private or tag.group >> 8 in (0x50, 0x60) or keyword in REMOVED:
        return True
    return vr in TEXTS and keyword not in KEPT_TEXTS


def _uid(key: bytes, uid: str) -> UID:
    """Return the UID that stands for another (PS3.5 §B.2)."""
    if uid.startswith(STANDARD_UIDS):
        return UID(uid)
    return UID(f"2.25.{int.from_bytes(_hmac(key, uid)[:16], 'big')}")


def _hmac(key: bytes, value: str) -> bytes:
    return hmac.new(key, value.encode(), hashlib.sha256).digest()


def _key(settings: Settings) -> bytes:
    path = settings.secrets_dir / SECRET
    if not path.is_file():
        raise Retriable(f"there is no secret {SECRET}: make it with `faas-cli secret create {SECRET}`")
    return path.read_bytes().strip()
