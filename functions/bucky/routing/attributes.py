"""Naming an attribute: `Modality`, `00080060`, or a path such as `RequestAttributesSequence[0].StudyID`.

Without a number, a step through a sequence means any of its items; items count from 0.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_VR, tag_for_keyword

from bucky.dicom.character_sets import CharacterSet, character_set_of, named
from bucky.dicom.numbers import shortest
from bucky.dicom.padding import without_padding
from bucky.routing.unknown import UNKNOWN, readings

MAX_STEPS = 8
MAX_VALUE_LENGTH = 1024
MAX_VALUES = 1000
_DEFAULT = character_set_of(None)
_ITEM = re.compile(r"(.*)\[(\d{1,4})\]")


class Step(NamedTuple):
    """One step: a tag as eight hexadecimal digits (PS3.18 §F.2.2), and which item of it, if one is meant."""

    tag: str
    item: int | None


class AttributeValue(NamedTuple):
    """A value as text, and its VR."""

    text: str
    vr: str


@lru_cache(2048)
def attribute_path(attribute: str) -> tuple[Step, ...]:
    """Return the steps to an attribute; raise `ValueError` with a sentence when it names none."""
    steps = tuple(_step(part) for part in attribute.split("."))
    if len(steps) > MAX_STEPS:
        raise ValueError(f"{attribute!r} goes through more than {MAX_STEPS - 1} sequences")
    if steps[-1].item is not None:
        raise ValueError(f"{attribute!r} ends with an item; name an attribute in it")
    return steps


def attribute_tag(attribute: str) -> str:
    """Return the tag of a keyword or tag as eight hexadecimal digits; raise `ValueError` when there is none."""
    digits = attribute.strip("()").replace(",", "")
    if len(digits) == 8 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return digits.upper()
    tag = tag_for_keyword(attribute)
    if tag is None:
        raise ValueError(f"{attribute!r} is neither a DICOM keyword nor a tag such as 00080060")
    return f"{tag:08X}"


def dictionary_vr(tag: str) -> str:
    """Return the VR of a standard attribute, or an empty text."""
    try:
        return dictionary_VR(int(tag, 16))
    except KeyError:
        return ""


def is_there(header: Mapping[str, Any], path: tuple[Step, ...]) -> bool:
    """Return whether the attribute is in the header, with a value or without."""
    return next(_elements(header, path, _DEFAULT), None) is not None


def attribute_values(
    header: Mapping[str, Any], path: tuple[Step, ...], vr: str | None = None
) -> tuple[AttributeValue, ...]:
    """Return an attribute's values as text; a person name counts whole and by component group.

    `vr` is how to read what was sent without one that anybody knows.
    """
    found: list[AttributeValue] = []
    for element, character_set in _elements(header, path, _DEFAULT):
        found.extend(_found(element, vr, character_set))
        if len(found) >= MAX_VALUES:
            break
    return tuple(found[:MAX_VALUES])


def _found(element: Mapping[str, Any], wanted_vr: str | None, character_set: CharacterSet) -> Iterator[AttributeValue]:
    vr = str(element.get("vr", ""))
    if vr == UNKNOWN and "InlineBinary" in element:
        value = b64decode(element["InlineBinary"])
        yield from (
            AttributeValue(text[:MAX_VALUE_LENGTH], its)
            for text, its in readings(value, wanted_vr, character_set)
            if text
        )
    for value in (element.get("Value") or ())[:MAX_VALUES]:
        yield from (AttributeValue(text[:MAX_VALUE_LENGTH], vr) for text in _texts(value, vr) if text)


def _texts(value: Any, vr: str) -> tuple[str, ...]:
    if isinstance(value, dict) and vr == "PN":
        groups = [without_padding(str(value.get(name) or ""), vr) for name in ("Alphabetic", "Ideographic", "Phonetic")]
        whole = "=".join(groups).rstrip("=")
        return tuple(dict.fromkeys([whole, *filter(None, groups)]))
    if isinstance(value, str):
        return (without_padding(value, vr),)
    return (shortest(value, vr),) if isinstance(value, int | float) else ()


def _elements(
    header: Mapping[str, Any], path: tuple[Step, ...], inherited: CharacterSet
) -> Iterator[tuple[Mapping[str, Any], CharacterSet]]:
    """Yield the element in every item that the path leads through, and the character set there."""
    named_here = header.get("00080005")
    if isinstance(named_here, dict):
        inherited = named(tuple(str(one or "") for one in named_here.get("Value") or ()))
    (tag, wanted), rest = path[0], path[1:]
    element = header.get(tag)
    if not isinstance(element, dict):
        return
    if not rest:
        yield element, inherited
        return
    items = (element.get("Value") or ()) if element.get("vr") == "SQ" else ()
    for number, item in enumerate(items):
        if isinstance(item, dict) and wanted in {None, number}:
            yield from _elements(item, rest, inherited)


def _step(part: str) -> Step:
    item = _ITEM.fullmatch(part)
    return Step(attribute_tag(item[1]), int(item[2])) if item else Step(attribute_tag(part), None)
