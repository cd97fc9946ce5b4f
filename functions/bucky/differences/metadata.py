"""Comparing a data set with the metadata of another in the DICOM JSON model (PS3.18 Annex F)."""

import json
from typing import Any

from pydicom.dataset import Dataset

from bucky.differences.headers import BINARY, differing
from bucky.differences.model import Attribute

MAX_DEPTH = 32
_CHARACTER_SET = "00080005"


def differing_from(metadata: bytes, ours: Dataset) -> tuple[Attribute, ...]:
    """Return the attributes of `ours` that metadata of one instance say otherwise; raise `ValueError` for others.

    Binary values are left out, which metadata refer to, and the character set, which is that of JSON.
    """
    found = json.loads(metadata)
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        raise ValueError("these are not the metadata of one instance")
    theirs = Dataset.from_json(_without_binary(found[0], MAX_DEPTH))
    theirs.pop(_CHARACTER_SET, None)
    ours.pop(_CHARACTER_SET, None)
    _strip(ours, MAX_DEPTH)
    return differing(ours, theirs)


def _without_binary(model: dict[str, Any], depth: int) -> dict[str, Any]:
    if not depth:
        raise ValueError("its sequences are too deep")
    kept = {}
    for tag, element in model.items():
        if element.get("vr") in BINARY or "BulkDataURI" in element or tag.startswith("0002"):
            continue
        if element.get("vr") == "SQ":
            items = [_without_binary(item, depth - 1) for item in element.get("Value", ())]
            kept[tag] = {**element, "Value": items}
        else:
            kept[tag] = element
    return kept


def _strip(dataset: Dataset, depth: int) -> None:
    for element in list(dataset):
        if element.VR in BINARY:
            del dataset[element.tag]
        elif element.VR == "SQ" and depth:
            for item in element.value:
                _strip(item, depth - 1)
