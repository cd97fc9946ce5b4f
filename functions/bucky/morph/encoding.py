"""The bytes of changed elements (PS3.5 §7.1, §7.5): what was not changed within them stays byte for byte as it was."""

import struct
from dataclasses import dataclass

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import BaseTag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from bucky.dicom.character_sets import CHARACTER_SET_VRS, CharacterSet, character_set_in
from bucky.dicom.element_vr import settled_vr

_LONG = frozenset(map(str, EXPLICIT_VR_LENGTH_32))
_MOST_SHORT = 0xFFFF
_ITEM = (0xFFFE, 0xE000)


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the data set is encoded: in implicit VR or not, and in which byte order."""

    implicit: bool
    little: bool

    def element(self, dataset: Dataset, tag: BaseTag, character_set: CharacterSet) -> bytes:
        """Return an element's bytes; raise `ValueError` and its like when it cannot be encoded so."""
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement):
            if self._is_as_it_will_be(element):
                return self._whole(tag, element.VR, element.value or b"")
            vr = settled_vr(dataset, element)
            if vr in CHARACTER_SET_VRS:  # of an item in implicit VR: the bytes are the same in both
                return self._whole(tag, vr, element.value or b"")
            dataset[tag] = element._replace(VR=vr)
            element = dataset[tag]
        if element.VR == "SQ":
            items = [self._item(item, character_set) for item in element.value or ()]
            return self._whole(tag, "SQ", b"".join(items))
        if element.VR in CHARACTER_SET_VRS:
            return self._whole(tag, element.VR, _text(element, character_set))
        return self._number(element)

    def _is_as_it_will_be(self, raw: RawDataElement) -> bool:
        """Return whether the undecoded value can stand in this encoding as it is."""
        if raw.VR is None or raw.VR in {"SQ", "UN"}:
            return raw.is_implicit_VR == self.implicit and raw.is_little_endian == self.little
        return raw.is_little_endian == self.little or raw.VR in CHARACTER_SET_VRS

    def _item(self, item: Dataset, inherited: CharacterSet) -> bytes:
        character_set = character_set_in(item, inherited)
        content = b"".join(self.element(item, tag, character_set) for tag in sorted(item.keys()) if tag.element)
        return self._pack("HHI", *_ITEM, len(content)) + content

    def _number(self, element: DataElement) -> bytes:
        """Let pydicom encode what has no text in a character set of its own."""
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = self.implicit, self.little
        write_data_element(buffer, element)
        return buffer.getvalue()

    def _whole(self, tag: BaseTag, vr: str | None, value: bytes) -> bytes:
        if len(value) % 2:
            value += b"\0" if vr == "UI" else b" "
        if self.implicit or vr is None:
            return self._pack("HHI", tag.group, tag.element, len(value)) + value
        if vr in _LONG:
            return self._pack("HH2s2xI", tag.group, tag.element, vr.encode(), len(value)) + value
        if len(value) > _MOST_SHORT:
            raise ValueError("the value is too long for its VR")
        return self._pack("HH2sH", tag.group, tag.element, vr.encode(), len(value)) + value

    def _pack(self, kind: str, *values: int | bytes) -> bytes:
        return struct.pack(("<" if self.little else ">") + kind, *values)


def _text(element: DataElement, character_set: CharacterSet) -> bytes:
    """Return the text of an element that was made here."""
    if element.is_empty:
        return b""
    values = [element.value] if element.VM == 1 else element.value
    return character_set.encode("\\".join(map(str, values)), element.VR)
