"""An attribute's values as text, and back: what is written is valid for its VR and its character set."""

from collections.abc import Sequence

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.config import RAISE
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS, validate_value

from bucky.dicom_json import dictionary_vr
from bucky.errors import Permanent
from bucky.morph.actions import WRITABLE_VRS
from bucky.padding import without_padding

UTF_8 = "ISO_IR 192"
_ONE_VALUE = frozenset({"LT", "ST", "UT", "UR"})
_CHARACTER_SET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_WHOLE_NUMBERS = frozenset({"SL", "SS", "SV", "UL", "US", "UV"})
_FRACTIONS = frozenset({"FD", "FL"})
_DEFAULT = ("", "ISO_IR 6")
_CHARACTER_SET = BaseTag(0x00080005)


class Unchangeable(Permanent):
    """A rule asks for a change that this instance does not allow; no value is quoted."""

    def __init__(self, attribute: str, why: str) -> None:
        super().__init__(
            f"{attribute} cannot be changed as the rule asks: {why}. The instance was not sent; correct the rule, "
            "then replay it"
        )


def texts_of(element: DataElement, attribute: str) -> tuple[str, ...]:
    """Return an element's values as text; raise `Unchangeable` when it has none."""
    if element.VR not in WRITABLE_VRS:
        raise Unchangeable(attribute, f"its VR is {element.VR}, which has no text or number")
    if element.is_empty:
        return ()
    values = [element.value] if element.VM == 1 else list(element.value)
    return tuple("" if value is None else without_padding(str(value), element.VR) for value in values)


def shown(element: DataElement) -> tuple[str, ...]:
    """Return an element's values for people, whatever its VR."""
    if element.VR in WRITABLE_VRS:
        return texts_of(element, "")
    size = len(element.value or ())
    return (f"({size} {'items' if element.VR == 'SQ' else 'bytes'})",)


def element_of(tag: BaseTag, vr: str, texts: Sequence[str], attribute: str) -> DataElement:
    """Return an element with these values; raise `Unchangeable` when they are not valid for the VR."""
    if any("\\" in text for text in texts) and vr not in _ONE_VALUE:
        raise Unchangeable(attribute, "a new value has a backslash, which separates values")
    try:
        if vr in _WHOLE_NUMBERS:
            values: list[str | int | float] = [int(text) for text in texts]
        elif vr in _FRACTIONS:
            values = [float(text) for text in texts]
        else:
            values = list(texts)
        for value in values:
            validate_value(vr, value, RAISE)
        return DataElement(tag, vr, values[0] if len(values) == 1 else values)
    except (ValueError, OverflowError, TypeError):
        # Not the exception's message: it quotes the value.
        raise Unchangeable(attribute, f"a new value is not valid for its VR, {vr} (PS3.5 §6.2)") from None


def make_encodable(dataset: Dataset, vr: str, texts: Sequence[str], attribute: str) -> bool:
    """Make sure that the data set's character set has these characters; return whether it had to be changed.

    One without a character set of its own, and without any text that would need one, becomes UTF-8.
    """
    wanted = [text for text in texts if not text.isascii()]
    if not wanted:
        return False
    if vr not in _CHARACTER_SET_VRS:
        raise Unchangeable(attribute, f"a new value has characters that its VR, {vr}, does not have")
    names = _names(dataset)
    if names in ([], *([one] for one in _DEFAULT)):
        if not all(_is_plain(element) for element in dataset.values()):
            raise Unchangeable(attribute, "the instance has text in a character set that it does not name")
        dataset[_CHARACTER_SET] = DataElement(_CHARACTER_SET, "CS", UTF_8)
        return True
    encodings = convert_encodings(names)
    delimiters = PN_DELIMS if vr == "PN" else TEXT_VR_DELIMS
    if any(decode_bytes(encode_string(text, encodings), encodings, delimiters) != text for text in wanted):
        raise Unchangeable(attribute, "a new value has characters that the instance's character set does not have")
    return False


def encodings_of(dataset: Dataset) -> list[str]:
    """Return the codecs of a data set's text."""
    return convert_encodings(_names(dataset))


def _names(dataset: Dataset) -> list[str]:
    element = dataset.get(_CHARACTER_SET)
    return [] if element is None else [name.strip() for name in texts_of(element, "SpecificCharacterSet")]


def _is_plain(element: DataElement | RawDataElement) -> bool:
    """Return whether an element's text is ASCII; what was changed before is text by now."""
    # In implicit VR an element does not say what it is; private ones then are bytes to everybody.
    if (element.VR or dictionary_vr(element.tag)) not in _CHARACTER_SET_VRS:
        return True
    if isinstance(element, RawDataElement):
        return element.value is None or element.value.isascii()
    return all(text.isascii() for text in texts_of(element, ""))
