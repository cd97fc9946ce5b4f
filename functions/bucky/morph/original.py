"""Recording what was there before a change: the Original Attributes Sequence (PS3.3 §C.12.1.1.9)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from bucky.morph.values import Unchangeable

ORIGINAL_ATTRIBUTES = BaseTag(0x04000561)
_PATIENT_ID, _ISSUER_OF_PATIENT_ID = BaseTag(0x00100020), BaseTag(0x00100021)
Elements = Mapping[BaseTag, DataElement | RawDataElement]


@dataclass(frozen=True, slots=True)
class Modification:
    """Who changes an instance, by which system it came, and when the change was decided on."""

    system: str
    source: str
    at: datetime


def record(dataset: Dataset, before: Elements, tags: Iterable[BaseTag], modification: Modification) -> None:
    """Append an item that keeps what the changed top-level attributes were; items that are there stay."""
    modified = Dataset()
    for tag in sorted(_with_context(before, set(tags) - {ORIGINAL_ATTRIBUTES})):
        # Without a value: it was empty or absent, and that is how one says so.
        modified[tag] = before[tag] if tag in before else DataElement(tag, dictionary_VR(tag), None)
    item = Dataset()
    item.ModifiedAttributesSequence = Sequence([modified])
    item.AttributeModificationDateTime = modification.at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000")
    item.ModifyingSystem = modification.system[:64]
    item.SourceOfPreviousValues = modification.source[:64]
    item.ReasonForTheAttributeModification = "COERCE"
    known = dataset.get(ORIGINAL_ATTRIBUTES)
    if known is not None and known.VR != "SQ":
        raise Unchangeable("OriginalAttributesSequence", "the instance has it with another VR than SQ")
    items = [] if known is None else list(known.value)
    dataset[ORIGINAL_ATTRIBUTES] = DataElement(ORIGINAL_ATTRIBUTES, "SQ", Sequence([*items, item]))


def _with_context(before: Elements, tags: set[BaseTag]) -> set[BaseTag]:
    """Add what makes values readable: the creator of private ones, and who issued a patient ID."""
    wanted = set(tags)
    for tag in tags:
        creator = BaseTag(tag & 0xFFFF0000 | (tag & 0xFFFF) >> 8)
        if tag >> 16 & 1 and creator in before:
            wanted.add(creator)
    if _PATIENT_ID in tags and _ISSUER_OF_PATIENT_ID in before:
        wanted.add(_ISSUER_OF_PATIENT_ID)
    return wanted
