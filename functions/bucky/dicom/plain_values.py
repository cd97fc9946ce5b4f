"""Decoding what nearly every element holds: a value that leaves nothing to judge, straight to DICOM JSON.

pydicom decodes everything a sender may have meant, and that costs ten times as much. Whatever is not plain
is left to it. Tests hold the two against each other.
"""

import math
import re
import struct
from collections.abc import Callable
from typing import Any

from bucky.dicom.padding import PADDING

_PADDING = PADDING.encode()
_ESCAPE = b"\x1b"
_OVERLINE = b"~"  # in ISO-IR 14 it is another character
_NUMBER_CHARACTERS = b"0123456789+-.eE "
_PLAIN_UID = re.compile(rb"[0-9.]+").fullmatch
_PLAIN_INTEGER = re.compile(r" *[+-]?[0-9]{1,12} *").fullmatch
_SIZES = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


def plain_values(vr: str, value: bytes, *, little: bool) -> list[Any] | None:
    """Return the values as DICOM JSON knows them; None when pydicom has to look."""
    decode = _DECODERS.get(vr)
    return None if decode is None else decode(value, little)


def _ascii(value: bytes) -> str | None:
    """Return text that reads the same in every character set of DICOM (PS3.3 §C.12.1.1.2)."""
    return value.decode("ascii") if value.isascii() and _ESCAPE not in value and _OVERLINE not in value else None


def _text(value: bytes, _little: bool) -> list[Any] | None:
    """Decode what may have several values, each padded."""
    text = _ascii(value)
    if text is None:
        return None
    if "\\" not in text:
        text = text.strip(PADDING)
        return [text] if text else []
    return [one.strip(PADDING) or None for one in text.split("\\")]


def _unlimited(value: bytes, _little: bool) -> list[Any] | None:
    """Decode what may have several values, in which leading spaces count."""
    text = _ascii(value)
    if text is None:
        return None
    if "\\" not in text:
        text = text.rstrip(PADDING)
        return [text] if text else []
    return [one.rstrip(PADDING) or None for one in text.split("\\")]


def _one_text(value: bytes, _little: bool) -> list[Any] | None:
    """Decode what has one value, in which a backslash is only a backslash."""
    text = _ascii(value)
    if text is None:
        return None
    text = text.rstrip(PADDING)
    return [text] if text else []


def _code(value: bytes, _little: bool) -> list[Any] | None:
    """Decode what may have several values, each padded; nothing but padding is no value."""
    text = _ascii(value)
    if text is None:
        return None
    text = text.strip(PADDING)
    if "\\" not in text:
        return [text] if text else []
    return [one.strip(PADDING) or None for one in text.split("\\")]


def _uid(value: bytes, _little: bool) -> list[Any] | None:
    value = value.strip(_PADDING)
    return [value.decode("ascii")] if _PLAIN_UID(value) else None


def _name(value: bytes, _little: bool) -> list[Any] | None:
    """Decode one name in one representation, without control characters."""
    text = _ascii(value.strip(_PADDING))
    if not text or "=" in text or "\\" in text or not text.isprintable():
        return None
    return [{"Alphabetic": text}]


def _decimals(value: bytes, _little: bool) -> list[Any] | None:
    values: list[Any] = []
    for one in value.strip(_PADDING).split(b"\\"):
        if not one or one.translate(None, _NUMBER_CHARACTERS):
            return None
        try:
            number = float(one)
        except ValueError:
            return None
        if not math.isfinite(number):
            return None
        values.append(number)
    return values


def _integers(value: bytes, _little: bool) -> list[Any] | None:
    text = _ascii(value.rstrip(_PADDING))
    if not text:
        return None
    values: list[Any] = []
    for one in text.split("\\"):
        if not _PLAIN_INTEGER(one):
            return None
        values.append(int(one))
    return values


def _numbers(vr: str) -> Callable[[bytes, bool], list[Any] | None]:
    size = struct.calcsize("=" + _SIZES[vr])
    single = {True: struct.Struct("<" + _SIZES[vr]).unpack, False: struct.Struct(">" + _SIZES[vr]).unpack}

    def decode(value: bytes, little: bool) -> list[Any] | None:
        count, rest = divmod(len(value), size)
        if rest or not count:
            return None
        if count == 1:
            values = list(single[little](value))
        else:
            values = list(struct.unpack(f"{'<' if little else '>'}{count}{_SIZES[vr]}", value))
        return None if vr in {"FL", "FD"} and not all(map(math.isfinite, values)) else values

    return decode


_DECODERS: dict[str, Callable[[bytes, bool], list[Any] | None]] = {
    **dict.fromkeys(("LO", "SH"), _text),
    "UC": _unlimited,
    **dict.fromkeys(("LT", "ST", "UT"), _one_text),
    **dict.fromkeys(("AS", "CS", "DA", "DT", "TM"), _code),
    **{vr: _numbers(vr) for vr in _SIZES},
    "UI": _uid,
    "PN": _name,
    "DS": _decimals,
    "IS": _integers,
}
