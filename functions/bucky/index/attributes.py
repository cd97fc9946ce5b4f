"""From a header in the DICOM JSON model (PS3.18 Annex F) to the index's columns, whatever the header holds."""

import json
import re
import zlib
from typing import Any

import orjson

from bucky.dicom.padding import bare_name, without_padding

# The keys of these tables are the index's columns.
_STUDY_TEXT = {
    "patient_id": "00100020",
    "issuer_of_patient_id": "00100021",
    "patient_name": "00100010",
    "patient_birth_date": "00100030",
    "patient_sex": "00100040",
    "study_time": "00080030",
    "accession_number": "00080050",
    "study_id": "00200010",
    "study_description": "00081030",
    "referring_physician_name": "00080090",
}
_SERIES_TEXT = {
    "modality": "00080060",
    "series_description": "0008103E",
    "series_time": "00080031",
    "body_part_examined": "00180015",
    "protocol_name": "00181030",
    "station_name": "00081010",
}
_INSTANCE_NUMBERS = {
    "instance_number": "00200013",
    "rows": "00280010",
    "columns": "00280011",
    "number_of_frames": "00280008",
}
_STUDY_DATE = "00080020"
_SERIES_DATE = "00080021"
_SERIES_NUMBER = "00200011"
# Number of Study, and of Series, Related Instances: what the sender means to send, where it says so.
_EXPECTED = ("00201208", "00201209")

# PostgreSQL refuses an index entry over about 2,700 bytes; the header keeps the whole value.
_MAX_TEXT = 500
_MAX_BIGINT = 2**63 - 1
_DATE = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")

Header = dict[str, Any]


def study_attributes(header: Header) -> dict[str, Any]:
    """Return the columns of `studies` that come from a header; None for what is absent."""
    values: dict[str, Any] = {name: _text(header, tag) for name, tag in _STUDY_TEXT.items()}
    values["study_date"] = _date(header, _STUDY_DATE)
    name = values["patient_name"]
    values["patient_name_key"] = None if name is None else name_key(name)
    return values


def series_attributes(header: Header) -> dict[str, Any]:
    """Return the columns of `series` that come from a header."""
    values: dict[str, Any] = {name: _text(header, tag) for name, tag in _SERIES_TEXT.items()}
    values["series_date"] = _date(header, _SERIES_DATE)
    values["series_number"] = _number(header, _SERIES_NUMBER)
    return values


def instance_attributes(header: Header) -> dict[str, Any]:
    """Return the columns of `instances` that come from a header."""
    return {name: _number(header, tag) for name, tag in _INSTANCE_NUMBERS.items()}


def expected_counts(header: Header) -> tuple[int | None, int | None]:
    """Return how many instances the study and the series should have, by this header."""
    of_study, of_series = (_number(header, tag) for tag in _EXPECTED)
    return of_study, of_series


def name_key(name: str) -> str:
    """Return a person name, or a pattern for one, as it is compared: without case, and what may be left out of it."""
    return bare_name(name).casefold()[:_MAX_TEXT]


def encode_header(header: Header) -> bytes:
    """Return a header as it is stored: compressed JSON."""
    return zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 6)


def decode_header(stored: bytes) -> Header:
    """Return a stored header."""
    text = zlib.decompress(stored)
    try:
        header: Header = orjson.loads(text)
    except orjson.JSONDecodeError:  # it is stricter: lone surrogates stand in headers that senders encoded wrongly
        header = json.loads(text)
    return header


def _first_value(header: Header, tag: str) -> Any:
    element = header.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _text(header: Header, tag: str) -> str | None:
    value = _first_value(header, tag)
    if isinstance(value, dict):  # a person name: its component groups (PS3.18 §F.2.2)
        groups = [str(value.get(group) or "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        value = "=".join(groups).rstrip("=")
    if value is None:
        return None
    text = without_padding(_NOT_STORABLE.sub("\ufffd", str(value)), str(header[tag].get("vr", "")))
    return text[:_MAX_TEXT] or None


def _date(header: Header, tag: str) -> str | None:
    match = _DATE.fullmatch(_text(header, tag) or "")
    return "".join(match.groups()) if match else None


def _number(header: Header, tag: str) -> int | None:
    value = _first_value(header, tag)
    try:
        number = int(value) if value is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) <= _MAX_BIGINT else None
