"""An attribute's values as text, and back: what is written is valid for its VR and its character set."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.config import RAISE
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import validate_value

from bucky.dicom.character_sets import (
    CHARACTER_SET_VRS,
    SEVERAL_VALUED,
    SPECIFIC_CHARACTER_SET,
    UTF_8,
    CharacterSet,
    character_set_in,
    named,
)
from bucky.dicom.element_vr import WRITABLE_VRS, is_likely_text, settled_vr, texts_of_unknown
from bucky.dicom.json_model import UNDECODABLE
from bucky.dicom.numbers import fraction, whole_number
from bucky.dicom.padding import without_padding
from bucky.errors import Permanent

_ONE_VALUE = frozenset({"LT", "ST", "UT", "UR"})
_WHOLE_NUMBERS = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_FRACTIONS = frozenset({"FD", "FL"})


class Unchangeable(Permanent):
    """A rule asks for a change that this instance does not allow; no value is quoted."""

    def __init__(self, attribute: str, why: str) -> None:
        super().__init__(
            f"{attribute} cannot be changed as the rule asks: {why}. The instance was not sent; correct the rule, "
            "then replay it"
        )


@dataclass(slots=True)
class Scope:
    """The data set or item that names the character set of the text in it (PS3.5 §7.5.3)."""

    owner: Dataset
    character_set: CharacterSet

    def of(self, item: Dataset) -> "Scope":
        """Return the scope of an item in this one."""
        if SPECIFIC_CHARACTER_SET not in item:
            return self
        return Scope(item, character_set_in(item, self.character_set))


def texts_of(
    holder: Dataset, tag: BaseTag, attribute: str, character_set: CharacterSet, *, strict: bool = True
) -> tuple[str, ...]:
    """Return an element's values as text; raise `Unchangeable` when it has none, or is not in its character set.

    Without `strict`, what is not in the character set becomes U+FFFD.
    """
    element = holder.get_item(tag)
    try:
        if isinstance(element, RawDataElement):
            vr, value = settled_vr(holder, element), element.value or b""
            if vr in CHARACTER_SET_VRS:
                return _decoded(value, vr, character_set, strict=strict)
            if vr == "UN" and (texts := texts_of_unknown(value, character_set)):
                return texts
            element = holder[tag] if " or " in vr else convert_raw_data_element(element._replace(VR=vr), ds=holder)
        if element.VR not in WRITABLE_VRS:
            raise Unchangeable(attribute, f"its VR is {element.VR}, which has no text or number")
        if element.is_empty:
            return ()
        values = [element.value] if element.VM == 1 else list(element.value)
        return tuple("" if value is None else without_padding(str(value), element.VR) for value in values)
    except UNDECODABLE:
        raise Unchangeable(attribute, "its value cannot be decoded") from None


def _decoded(value: bytes, vr: str, character_set: CharacterSet, *, strict: bool) -> tuple[str, ...]:
    text = character_set.decode(value, vr, strict=strict)
    texts = text.split("\\") if vr in SEVERAL_VALUED else [text]
    texts = [without_padding(one, vr) for one in texts]
    return () if texts == [""] else tuple(texts)


def shown(holder: Dataset, tag: BaseTag, character_set: CharacterSet) -> tuple[str, ...]:
    """Return an element's values for people, whatever its VR."""
    element = holder.get_item(tag)
    vr = settled_vr(holder, element) if isinstance(element, RawDataElement) else element.VR
    if vr in WRITABLE_VRS:
        return texts_of(holder, tag, "", character_set, strict=False)
    if vr == "SQ":
        return (f"({len(holder[tag].value or ())} items)",)
    return (f"({len(element.value or ())} bytes)",)


def element_of(
    tag: BaseTag, vr: str, texts: Sequence[str], attribute: str, character_set: CharacterSet
) -> DataElement | RawDataElement:
    """Return an element with these values; raise `Unchangeable` when they are not valid for the VR."""
    if any("\\" in text for text in texts) and vr not in _ONE_VALUE:
        raise Unchangeable(attribute, "a new value has a backslash, which separates values")
    try:
        if vr in _WHOLE_NUMBERS:
            values: list[str | int | float] = [whole_number(text) for text in texts]
        elif vr in _FRACTIONS:
            values = [fraction(text) for text in texts]
        else:
            values = list(texts)
        for value in values:
            validate_value(vr, value, RAISE)
        if vr in CHARACTER_SET_VRS:
            encoded = character_set.encode("\\".join(texts), vr)
            return RawDataElement(tag, vr, len(encoded), encoded, 0, False, True)
        return DataElement(tag, vr, values[0] if len(values) == 1 else values)
    except (ValueError, OverflowError, TypeError):
        # Not the exception's message: it quotes the value.
        raise Unchangeable(attribute, f"a new value is not valid for its VR, {vr} (PS3.5 §6.2)") from None


def make_encodable(scope: Scope, vr: str, texts: Sequence[str], attribute: str) -> bool:
    """Make sure that a scope's character set has these characters; return whether it had to be changed.

    One with the default repertoire only, and without any text that would need another, becomes UTF-8.
    """
    if vr not in CHARACTER_SET_VRS:
        if not all(text.isascii() for text in texts):
            raise Unchangeable(attribute, f"a new value has characters that its VR, {vr}, does not have")
        return False
    try:
        scope.character_set.encode("\\".join(texts), vr)
    except ValueError:
        pass
    else:
        return False
    if not scope.character_set.standard:
        raise Unchangeable(
            attribute,
            "a new value has characters beyond ASCII, and the instance's Specific Character Set (0008,0005) is no "
            "defined term of the standard",
        )
    if not scope.character_set.is_default:
        raise Unchangeable(attribute, "a new value has characters that the instance's character set does not have")
    if not is_plain(scope.owner):
        raise Unchangeable(attribute, "the instance has text in a character set that it does not name")
    scope.owner[SPECIFIC_CHARACTER_SET] = DataElement(SPECIFIC_CHARACTER_SET, "CS", UTF_8)
    scope.character_set = named((UTF_8,))
    return True


def is_plain(dataset: Dataset) -> bool:
    """Return whether all text is ASCII that has no character set of its own, that in sequences too."""
    return all(_is_plain(dataset, element) for element in list(dataset.values()))


def _is_plain(dataset: Dataset, element: DataElement | RawDataElement) -> bool:
    vr = settled_vr(dataset, element) if isinstance(element, RawDataElement) else element.VR
    if vr == "SQ":
        if isinstance(element, RawDataElement):
            element = convert_raw_data_element(element._replace(VR=vr), ds=dataset)
        return all(SPECIFIC_CHARACTER_SET in item or is_plain(item) for item in element.value or ())
    value = element.value
    if vr == "UN" and isinstance(value, bytes):  # bytes to us, and text to whoever knows the vendor
        return value.isascii() or not is_likely_text(value)
    if vr not in CHARACTER_SET_VRS:
        return True
    if isinstance(value, bytes):
        return value.isascii() and b"\x1b" not in value
    return str(value or "").isascii()
