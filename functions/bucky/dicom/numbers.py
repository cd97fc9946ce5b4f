"""Numbers as DICOM writes them (PS3.5 §6.2, DS and IS), which is less than Python reads: no `nan`, no `1_0`."""

import math
import re
import struct

from bucky.dicom.padding import PADDING

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", re.ASCII)
_MOST_CHARACTERS = 400
"""Of a number: no double has more to say, and Python takes its time over thousands of digits."""
_SINGLE = struct.Struct("<f")
_EXACT = 1e16


def number(value: str | int | float) -> int | float | None:
    """Return what is a number, or the text of one; whole numbers exactly, None for all else."""
    if not isinstance(value, str):
        return value if math.isfinite(value) else None
    text = value.strip(PADDING)
    if len(text) > _MOST_CHARACTERS:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    found = float(text) if _DECIMAL.fullmatch(text) else math.nan
    return found if math.isfinite(found) else None


def whole_number(text: str) -> int:
    """Return the text of a whole number as one; raise `ValueError` for all else."""
    if _INTEGER.fullmatch(text.strip(PADDING)) is None:
        raise ValueError("not a whole number")
    return int(text.strip(PADDING))


def fraction(text: str) -> float:
    """Return the text of a number as one; raise `ValueError` for all else, `OverflowError` for what is too large."""
    found = number(text)
    if found is None:
        raise ValueError("not a number")
    return float(found)


def as_single(value: int | float) -> float:
    """Return the number of 32 bits (FL) next to a number; what has none stays as it is."""
    try:
        return float(_SINGLE.unpack(_SINGLE.pack(value))[0])
    except (OverflowError, struct.error):
        return float(value)


def shortest(value: int | float, vr: str) -> str:
    """Return a number's shortest text: 40 rather than 40.0, and 0.1 for the FL next to it."""
    if isinstance(value, int):
        return str(value)
    if vr == "FL" and math.isfinite(value):
        texts = (f"{value:.{digits}g}" for digits in range(6, 9))
        value = float(next((text for text in texts if as_single(float(text)) == value), repr(value)))
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)
