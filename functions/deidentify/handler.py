"""Takes out who the patient is, by what kind of value an element has rather than by a list of every name.

What it does of PS3.15 Table E.1-1 (Basic Application Level Confidentiality Profile), at every depth:

    removed    every person's name, text, title, age and address element that is not in `KEPT_TEXTS`; private
               elements, overlays, curves, unknown elements, and the elements in `REMOVED`
    emptied    dates and times (all of them), and the elements in `EMPTIED`
    replaced   every UID that is not one of DICOM's own, Patient ID and Patient's Name, by what an HMAC with the
               secret `deidentify-key` makes of it: instances that belonged together still do
    kept       pixels, numbers and codes

It cannot look at pixels, so it refuses what says or is likely to have text in them, and documents: `burned_in.py` is
the table. A rule's parameter `allow` lets kinds of it through, such as `allow: "ultrasound, screen save"`. It
keeps no dates and no descriptions (no option of the profile), and is no substitute for a review of what it lets
through. The same input and key make the same bytes, so doing it again makes nothing new.
"""

import hashlib
import hmac
from collections.abc import Iterator

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from bucky.dicom.padding import without_padding
from bucky.errors import Permanent, Retriable
from bucky.serve.handlers import Context
from bucky.serve.processing_input import ProcessingInput
from bucky.settings import Settings
from deidentify import burned_in

SECRET = "deidentify-key"  # noqa: S105 - its name
METHOD = "Subset of PS3.15 Table E.1-1 by value representation"
STANDARD_UIDS = "1.2.840.10008."

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


def process(given: ProcessingInput, ctx: Context, settings: Settings) -> Iterator[Dataset]:
    """Yield every instance without what says whose it is; raise `Permanent` rather than let one through."""
    key = _key(settings)
    allowed = burned_in.allowed_by(given.parameters.get("allow"))
    for instance in given.instances:
        kind = burned_in.of_class(instance.sop_class_uid)
        if kind is not None and kind not in allowed:
            raise _refusal(kind, f"its SOP class is {instance.sop_class_uid}")
        yield deidentified(instance.read(), key, allowed)
    ctx.log.info("instances.deidentified", instances=len(given.instances), study_instance_uid=given.study_instance_uid)


def deidentified(dataset: Dataset, key: bytes, allowed: frozenset[str] = frozenset()) -> Dataset:
    """Return the data set changed in place; raise `Permanent` when its pixels may say who the patient is."""
    for kind, attribute in burned_in.suspicions(dataset):
        if kind not in allowed:
            raise _refusal(kind, f"its {attribute} says so")
    patient = "\n".join(
        without_padding(str(dataset.get(keyword) or ""), "LO") for keyword in ("PatientID", "IssuerOfPatientID")
    )
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


def _refusal(kind: str, why: str) -> Permanent:
    return Permanent(
        f"an instance shows text or a face in its pixels, or is likely to ({kind}: {why}), which this function cannot "
        f"look at: nothing was given on. Leave such instances out by the rule's condition, or let them through with "
        f'the parameter `allow: "{kind}"`'
    )


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
    uid = without_padding(uid, "UI")
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
