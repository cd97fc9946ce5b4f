"""Which of two values comes first, or whether they are the same, as their VR wants it (PS3.5 §6.2)."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from functools import lru_cache

from bucky.dicom.numbers import as_single, number
from bucky.dicom.padding import bare_name, without_padding
from bucky.routing.unknown import UNKNOWN

Operand = str | int | float

_DATE = re.compile(r"(\d{4})[-./]?(\d{2})[-./]?(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DATE_TIME = re.compile(
    r"(\d{4})-?(\d{2})?-?(\d{2})?(?:[T ]?(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?)?([+-]\d{2}:?\d{2}|Z)?",
    re.ASCII,
)
_AGE = re.compile(r"(\d{1,3}) ?([DWMY])", re.ASCII)
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_MICROSECOND = timedelta(microseconds=1)
_NO_OFFSET = timezone(timedelta(0))


def order(value: str, operand: Operand, vr: str) -> int | None:
    """Return -1, 0 or 1 as the value is less than, equal to or greater than the operand; None when they do not compare.

    As the VR says, where it is one of dates, times, ages or numbers; else as numbers where both are; else as text.
    """
    read = _READERS.get(vr)
    left, right = (read(value), read(_digits(operand, vr))) if read else (number(value), number(operand))
    if left is not None and right is not None:
        return 0 if vr == "FL" and as_single(left) == as_single(right) else (left > right) - (left < right)
    if has_order(vr):
        return None
    return (value > operand) - (value < operand) if isinstance(operand, str) else None


def equal(value: str, operand: Operand, vr: str) -> bool:
    """Return whether a value is the operand, in whichever of the forms that its VR has for it."""
    if vr == "PN":
        return bare_name(value) == bare_name(str(operand))
    if vr == "AS":  # 012M is as old as 001Y, and says something else
        ages = [_AGE.fullmatch(without_padding(text, vr)) for text in (value, str(operand))]
        return all(ages) and len({(int(age[1]), age[2]) for age in ages if age}) == 1
    if value == without_padding(str(operand), vr):
        return True
    # 00123 is not the patient 123; but 1.50 is the thickness 1.5, however it is written.
    return has_order(vr) and order(value, operand, vr) == 0


def has_order(vr: str) -> bool:
    """Return whether a VR has an order of its own: what is no value of it comes neither before nor after any."""
    return vr in _READERS or vr in _NUMERIC


def is_readable(operand: Operand, vr: str) -> bool:
    """Return whether an operand is a date, time or age where the VR wants one."""
    read = _READERS.get(vr)
    return read is None or read(_digits(operand, vr)) is not None


def comes_in_order(value: str, vr: str) -> bool:
    """Return whether a value is one of those that its VR has an order for."""
    return is_readable(value, vr) and (vr not in _NUMERIC or number(value) is not None)


def _digits(operand: Operand, vr: str) -> str:
    """Return an operand as text; a date or time may be written as a number, a time without its leading zero."""
    digits = str(operand)
    return digits.zfill(len(digits) + len(digits) % 2) if isinstance(operand, int) and vr == "TM" else digits


@lru_cache(4096)
def _date(text: str) -> float | None:
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return float(date(*map(int, match.groups())).toordinal())
    except ValueError:
        return None


@lru_cache(4096)
def _time(text: str) -> float | None:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    try:
        read = time(int(hour), int(minute or 0), min(int(second or 0), 59), int((fraction or "").ljust(6, "0")))
    except ValueError:
        return None
    leap = 1.0 if second == "60" else 0.0
    return read.hour * 3600.0 + read.minute * 60 + read.second + read.microsecond / 1e6 + leap


@lru_cache(4096)
def _date_time(text: str) -> float | None:
    match = _DATE_TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        read = datetime(
            int(year),
            int(month or 1),
            int(day or 1),
            int(hour or 0),
            int(minute or 0),
            min(int(second or 0), 59),
            int((fraction or "").ljust(6, "0")),
            tzinfo=_zone(offset),
        )
        # As if in UTC where no offset is given: a data set may name it elsewhere, or nowhere (PS3.3 §C.12.1.1.8).
        return (read - datetime(1, 1, 2, tzinfo=UTC)) / _MICROSECOND
    except (ValueError, OverflowError):
        return None


def _zone(offset: str | None) -> timezone:
    if offset in {None, "Z"}:
        return _NO_OFFSET
    digits = str(offset).replace(":", "")
    sign = -1 if digits[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5])))


def _age(text: str) -> float | None:
    match = _AGE.fullmatch(text.strip())
    return int(match[1]) * _DAYS[match[2]] if match else None


_NUMERIC = frozenset({"DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", UNKNOWN, ""})
"""The VRs of numbers, and counts, which have none."""
_READERS: Mapping[str, Callable[[str], float | None]] = {
    "DA": _date,
    "TM": _time,
    "DT": _date_time,
    "AS": _age,
}
