"""What an element of unknown VR may say: private ones in implicit VR, or sent as UN (PS3.5 §6.2.2).

A condition may name the VR. Where it does not, bytes that read as text are text, and bytes as long as a number are also
each number that they can be, which only `equals`, `in` and `only` look at: of those no two are alike by chance.
"""

from collections.abc import Iterator

from bucky.dicom.character_sets import CHARACTER_SET_VRS, SEVERAL_VALUED, CharacterSet
from bucky.dicom.element_vr import texts_of_unknown
from bucky.dicom.numbers import shortest
from bucky.dicom.padding import PADDING, without_padding
from bucky.dicom.plain_values import plain_values

UNKNOWN = "UN"
"""The VR of a value that is one of several readings."""
_NUMBERS = {2: ("US", "SS"), 4: ("UL", "SL", "FL"), 8: ("FD", "UV", "SV")}


def readings(value: bytes, vr: str | None, character_set: CharacterSet) -> Iterator[tuple[str, str]]:
    """Yield each text that the bytes can be, with its VR."""
    if vr is not None:
        yield from ((text, vr) for text in _as(value, vr, character_set))
        return
    texts = texts_of_unknown(value, character_set)
    yield from ((text, "LO") for text in texts)
    for number_vr in _NUMBERS.get(len(value), ()):
        for text in _as(value, number_vr, character_set):
            if text not in texts:
                yield text, UNKNOWN


def _as(value: bytes, vr: str, character_set: CharacterSet) -> list[str]:
    plain = plain_values(vr, value, little=True)
    if plain is not None and vr != "PN":
        return [shortest(one, vr) if isinstance(one, int | float) else str(one) for one in plain if one is not None]
    text = character_set.decode(value, vr) if vr in CHARACTER_SET_VRS else value.decode("ascii", "replace")
    several = vr in SEVERAL_VALUED or vr not in CHARACTER_SET_VRS | {"UR"}
    stripped = text.strip(PADDING) if several else text
    values = [without_padding(one, vr) for one in (stripped.split("\\") if several else [stripped])]
    return [part for name in values for part in dict.fromkeys((name, *name.split("=")))] if vr == "PN" else values
