"""From a data set to the DICOM JSON model (PS3.18 Annex F), one element at a time, losing none for another."""

import base64
import math
import struct
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.config import disable_value_validation
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException

from bucky.dicom.character_sets import (
    CHARACTER_SET_VRS,
    SEVERAL_VALUED,
    CharacterSet,
    character_set_in,
    character_set_of,
)
from bucky.dicom.element_vr import dictionary_vr, may_be_text, settled_vr
from bucky.dicom.numbers import number as number_of
from bucky.dicom.padding import without_padding
from bucky.dicom.plain_values import plain_values

MAX_BINARY_BYTES = 1024
MAX_DEPTH = 32

# What pydicom raises for values it cannot decode; there is no common ancestor.
UNDECODABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    EOFError,
    RuntimeError,
    TypeError,
    ValueError,
    BytesLengthException,
    struct.error,
)
_BINARY = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
_WHOLE_NUMBERS = {"IS", "SL", "SS", "SV", "UL", "US", "UV"}
_NUMBERS = {"DS", "FD", "FL"}
_WRITTEN_NUMBERS = {"DS", "IS"}
# What an element of these VRs is when it has no bytes needs no pydicom to say.
_EMPTY_WHEN_SHORT = _WHOLE_NUMBERS | _NUMBERS | {"AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UI"}
# Their first value is unsigned whatever their VR says (PS3.3 §C.7.6.3.1.5), as pydicom knows.
_LUT_DESCRIPTORS = {0x00281101, 0x00281102, 0x00281103, 0x00283002}
_PIXEL_DATA = 0x7FE00010  # an icon has one of its own
_PYDICOM = threading.Lock()


@dataclass(frozen=True, slots=True)
class Attributes:
    """A DICOM JSON model object, and the tags of the elements nobody could decode."""

    model: dict[str, Any]
    undecodable: tuple[str, ...]


def attributes(dataset: Dataset) -> Attributes:
    """Return the elements of a data set; binary values over 1 KiB are left out."""
    undecodable: list[str] = []
    with quietly():
        model = _model(dataset, undecodable, MAX_DEPTH, character_set_of(None))
    return Attributes(model, tuple(undecodable))


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from judging values, and from quoting them in warnings; neither switch is thread-safe."""
    with _PYDICOM, warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _model(dataset: Dataset, undecodable: list[str], depth: int, inherited: CharacterSet) -> dict[str, Any]:
    character_set = character_set_in(dataset, inherited)
    model: dict[str, Any] = {}
    # Compared as plain numbers: pydicom's tags compare ten times slower.
    for number, _, raw in sorted((int(tag), tag, raw) for tag, raw in dataset.items()):
        name = f"{number:08X}"
        try:
            if isinstance(raw, RawDataElement):
                element = _plain(number, raw) or _looked_at(dataset, raw, undecodable, depth, character_set)
            else:
                element = _element(raw, undecodable, depth, character_set)
        except UNDECODABLE:
            # It is there, whatever it says: conditions may ask for that.
            undecodable.append(name)
            element = {"vr": settled_vr(dataset, raw) if isinstance(raw, RawDataElement) else str(raw.VR)}
        if element is not None:
            model[name] = element
    return model


def _plain(tag: int, raw: RawDataElement) -> dict[str, Any] | None:
    """Return the JSON of an element that leaves nothing to judge."""
    if tag in _LUT_DESCRIPTORS:
        return None
    vr = raw.VR
    if vr is None:
        vr = dictionary_vr(tag)
    if raw.length == 0:
        return {"vr": vr} if vr in _EMPTY_WHEN_SHORT else None
    if raw.value is None:
        return None
    values = plain_values(vr, raw.value, little=raw.is_little_endian)
    return None if values is None else _with_values(vr, values)


def _looked_at(
    dataset: Dataset, raw: RawDataElement, undecodable: list[str], depth: int, character_set: CharacterSet
) -> dict[str, Any] | None:
    """Return the JSON of an element that does not say what it is, or is text beyond ASCII, or what pydicom knows."""
    vr = settled_vr(dataset, raw)
    if vr != raw.VR and raw.value and raw.tag not in _LUT_DESCRIPTORS:
        values = plain_values(vr, raw.value, little=raw.is_little_endian)
        if values is not None:
            return _with_values(vr, values)
    if vr in CHARACTER_SET_VRS and raw.value:
        return _with_values(vr, _texts(raw.value, vr, character_set))
    if vr == raw.VR or (raw.VR is None and not raw.tag.is_private and vr != "SQ"):
        return _element(dataset[raw.tag], undecodable, depth, character_set)
    try:
        dataset[raw.tag] = raw._replace(VR=vr, is_implicit_VR=True)
        return _element(dataset[raw.tag], undecodable, depth, character_set)
    except UNDECODABLE:  # it is not what its creator's dictionary, or its first bytes, said
        return _element(DataElement(raw.tag, "UN", raw.value), undecodable, depth, character_set)


def _texts(value: bytes, vr: str, character_set: CharacterSet) -> list[Any]:
    """Decode the values of an element that has its text in the character set."""
    text = character_set.decode(value, vr)
    if vr not in SEVERAL_VALUED:
        return [one] if (one := without_padding(text, vr)) else []
    values = [without_padding(one, vr) or None for one in text.split("\\")]
    if values == [None]:
        return []
    return [_name_of(one.split("=")) if one else None for one in values] if vr == "PN" else list(values)


def _with_values(vr: str, values: list[Any]) -> dict[str, Any]:
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _element(
    element: DataElement, undecodable: list[str], depth: int, character_set: CharacterSet
) -> dict[str, Any] | None:
    """Return one element's JSON, or None when it is bulk data."""
    vr, value = _settled_vr(element), element.value
    if vr == "SQ":
        if depth == 0:
            raise RecursionError
        return {"vr": vr, "Value": [_model(item, undecodable, depth - 1, character_set) for item in value]}
    if vr in _BINARY:
        return _binary(vr, element)
    if element.is_empty:
        return {"vr": vr}
    values = [value] if element.VM == 1 else list(value)
    return {"vr": vr, "Value": [_value(vr, one) for one in values]}


def _settled_vr(element: DataElement) -> str:
    """Return the VR; `US or SS` and the like, where nothing in the data set decides, become one of the two."""
    vr = str(element.VR)
    if " or " not in vr:
        return vr
    return "OW" if isinstance(element.value, bytes) else "US"


def _binary(vr: str, element: DataElement) -> dict[str, Any] | None:
    value = element.value
    if not value:
        return {"vr": vr}
    if not isinstance(value, bytes):
        raise TypeError
    # What may be text is kept, as it would be if it said so.
    if element.tag == _PIXEL_DATA or (len(value) > MAX_BINARY_BYTES and not (vr == "UN" and may_be_text(value))):
        return None
    return {"vr": vr, "InlineBinary": base64.b64encode(value).decode()}


def _value(vr: str, value: Any) -> Any:
    """Return one value as JSON knows it (PS3.18 Table F.2.3-1)."""
    if value is None or value == "":
        return None
    if vr == "PN":
        return _name_of(value.components)
    if vr == "AT":
        return f"{int(value):08X}"
    if vr in _WRITTEN_NUMBERS and number_of(getattr(value, "original_string", str(value))) is None:
        raise ValueError("no number of DICOM's, whatever Python makes of it")
    if vr in _WHOLE_NUMBERS:
        return int(value)
    if vr in _NUMBERS:
        number = float(value)
        return number if math.isfinite(number) else str(number)
    if isinstance(value, bytes):
        raise TypeError
    return without_padding(str(value), vr) or None


def _name_of(groups: Iterable[str]) -> dict[str, str]:
    texts = zip(("Alphabetic", "Ideographic", "Phonetic"), groups, strict=False)
    return {name: text for name, group in texts if (text := without_padding(str(group), "PN"))}
