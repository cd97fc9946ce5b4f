"""Comparing two data sets attribute by attribute, whatever encodes them."""

import hashlib
from collections.abc import Iterator
from typing import Any

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag

from bucky.dicom.json_model import UNDECODABLE
from bucky.dicom.numbers import number
from bucky.dicom.padding import PADDING
from bucky.differences.model import Attribute

MAX_DEPTH = 32
SHOWN_CHARACTERS = 256
PIXEL_DATA = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
# Where pixels in the data set are, and how they are wrapped: not what they are.
_WRAPPING = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0xFFFCFFFC})
# What decoding changes together with the pixels, which are compared as decoded (PS3.3 §C.7.6.3).
OF_ENCODED_PIXELS = frozenset({"00280004", "00280006"})
_NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"})
BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_BACKSLASH = "\\"


def differing(first: Dataset, second: Dataset) -> tuple[Attribute, ...]:
    """Return the attributes that differ, by path; pixel data are left out."""
    ours, theirs = dict(_flat(first, "", MAX_DEPTH)), dict(_flat(second, "", MAX_DEPTH))
    both = ours.keys() & theirs.keys()
    paths = [
        path for path in sorted(ours.keys() | theirs.keys()) if path not in both or not _same(ours[path], theirs[path])
    ]
    return tuple(
        Attribute(path, _name(path, ours.get(path, theirs.get(path))), _shown(ours.get(path)), _shown(theirs.get(path)))
        for path in paths
    )


def _flat(dataset: Dataset, before: str, depth: int) -> Iterator[tuple[str, DataElement | None]]:
    """Yield each element that is no sequence by its path, and what an item and an empty sequence are by theirs."""
    for tag in sorted(dataset.keys()):
        if tag.element == 0 or (not before and (int(tag) in PIXEL_DATA or int(tag) in _WRAPPING)):
            continue
        path = f"{before}{int(tag):08X}"
        element = _element(dataset, tag)
        if element is None or element.VR != "SQ":
            yield path, element
        elif depth:
            if not element.value:
                yield path, element
            for number, item in enumerate(element.value or (), 1):
                yield f"{path}[{number}]", None
                yield from _flat(item, f"{path}[{number}].", depth - 1)


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Return an element decoded, or as the bytes it is where it cannot be."""
    raw = dataset.get_item(tag)
    try:
        element = dataset[tag]
        _plain(element)
    except UNDECODABLE:
        return DataElement(tag, "UN", getattr(raw, "value", None) or b"")
    return element


def _same(first: DataElement | None, second: DataElement | None) -> bool:
    if first is None or second is None:
        return first is second
    if _plain(first) == _plain(second):
        return True
    # Implicit VR has no VR for what no dictionary names: the bytes say whether it is the same.
    return "UN" in {first.VR, second.VR} and _encoded(first) == _encoded(second)


def _plain(element: DataElement) -> Any:
    """Return a value that is equal for what is equal, whatever the VR's padding or character set."""
    value = element.value
    if element.VR in BINARY:
        return bytes(value or b"").rstrip(b"\0")
    values = [] if value is None or value == "" else list(value) if _is_several(value) else [value]
    if element.VR in _NUMBERS:
        texts = [getattr(one, "original_string", None) or str("" if one is None else one) for one in values]
        return [text.strip(PADDING) if (found := number(text)) is None else found for text in texts]
    return [str(one).strip(" \0") for one in values]


def _is_several(value: Any) -> bool:
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__") and not hasattr(value, "components")


def _encoded(element: DataElement) -> bytes:
    """Return the bytes of a value in implicit VR little endian, without padding."""
    target = DicomBytesIO()
    target.is_little_endian, target.is_implicit_VR = True, True
    try:
        write_data_element(target, element)
    except UNDECODABLE:
        return b""
    return target.getvalue()[8:].rstrip(b" \0")


def _shown(element: DataElement | None) -> str | None:
    """Return a value as a person reads it, cut where it is long; None where there is none."""
    if element is None:
        return None
    if element.VR == "SQ":
        return "(no items)"
    if element.VR in BINARY:
        content = bytes(element.value or b"")
        return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"
    value = element.value
    text = _BACKSLASH.join(str(one) for one in value) if _is_several(value) else str("" if value is None else value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _name(path: str, element: DataElement | None) -> str:
    """Return the keyword of the last attribute of a path, or its tag."""
    last = path.rpartition(".")[2].partition("[")[0]
    if element is not None and element.tag.is_private:
        return f"({last[:4]},{last[4:]})"
    return keyword_for_tag(int(last, 16)) or f"({last[:4]},{last[4:]})"
