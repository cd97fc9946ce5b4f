"""A value is the same however it is padded: in the index, in conditions and in changes, at any depth."""

import io
import struct
from typing import Any

import pytest
from pydantic import TypeAdapter
from pydicom.datadict import dictionary_VR, tag_for_keyword

from bucky.dicom.header import read_data_set
from bucky.dicom.json_model import attributes
from bucky.dicom.source import StreamSource
from bucky.index.attributes import series_attributes, study_attributes
from bucky.morph.splice import WantedChanges, morphed
from bucky.routing.changes import Action
from bucky.routing.conditions import Condition
from bucky.routing.evaluation import Facts, holds

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
SEQUENCE = "RequestAttributesSequence"
CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
ACTIONS: TypeAdapter[tuple[Action, ...]] = TypeAdapter(tuple[Action, ...])
LONG = {"SQ", "UC", "UR", "UT", "UN"}


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """Return an element's bytes, the value as it is but for its even length."""
    value += b" " * (len(value) % 2)
    order = ">" if syntax == BIG else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + vr.encode() + struct.pack(order + "H", len(value)) + value


def data_set(keyword: str, value: bytes, syntax: str = EXPLICIT, character_set: bytes = b"ISO_IR 100") -> bytes:
    """Return a data set with an element at the top, and the same in an item of a sequence."""
    tag, sequence = int(tag_for_keyword(keyword) or 0), int(tag_for_keyword(SEQUENCE) or 0)
    one = element(tag, dictionary_VR(tag), value, syntax)
    order = ">" if syntax == BIG else "<"
    item = struct.pack(order + "HHI", 0xFFFE, 0xE000, len(one)) + one
    elements = {
        0x00080005: element(0x00080005, "CS", character_set, syntax),
        tag: one,
        sequence: element(sequence, "SQ", item, syntax),
    }
    return b"".join(elements[tag] for tag in sorted(elements))


def header_of(content: bytes, syntax: str = EXPLICIT) -> dict[str, Any]:
    """Return what the index keeps."""
    read, problem = read_data_set(StreamSource(io.BytesIO(content)), 0, syntax)
    assert problem is None
    return attributes(read).model


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize(
    ("keyword", "value", "texts"),
    [
        ("Modality", b" CT ", ["CT"]),
        ("ImageType", b"ORIGINAL \\ PRIMARY\\AXIAL  ", ["ORIGINAL", "PRIMARY", "AXIAL"]),
        ("PatientID", b"  P123\0", ["P123"]),
        ("PatientID", b"\0P123", ["P123"]),
        ("OtherPatientIDs", b" P1 \\ \\ P\xfc2 ", ["P1", "P\xfc2"]),
        ("StudyDescription", b"  Sch\xe4del ", ["Sch\xe4del"]),
        ("AccessionNumber", b" A 1 ", ["A 1"]),
        ("StationAETitle", b" CT1 ", ["CT1"]),
        ("PatientAge", b" 17Y", ["17Y"]),
        ("StudyDate", b" 20240101 ", ["20240101"]),
        ("StudyTime", b" 1015 ", ["1015"]),
        ("AcquisitionDateTime", b" 2024 ", ["2024"]),
        ("StudyInstanceUID", b" 1.2.3\0", ["1.2.3"]),
        ("PatientName", b" Doe^Jane ", ["Doe^Jane"]),
        ("PatientName", b" M\xfcller^J = X^Y ", ["M\xfcller^J=X^Y", "M\xfcller^J", "X^Y"]),
        ("PatientComments", b"  indented ", ["  indented"]),
        ("PatientComments", b"  one \\ two \xe4 ", ["  one \\ two \xe4"]),
        ("DerivationDescription", b" derived ", [" derived"]),
        ("StrainDescription", b" long \\ \xe4 ", [" long", " \xe4"]),
    ],
)
def test_padding_is_no_part_of_a_value(keyword: str, value: bytes, texts: list[str], syntax: str) -> None:
    """Leading and trailing spaces go where the VR says that they mean nothing (PS3.5 §6.2), of each value."""
    header = header_of(data_set(keyword, value, syntax), syntax)
    for attribute in (keyword, f"{SEQUENCE}.{keyword}"):
        verdict = holds(CONDITION.validate_python({"attribute": attribute, "regex": ".*"}), Facts(header))
        assert list(verdict.found) == texts
        for text in texts:
            assert holds(CONDITION.validate_python({"attribute": attribute, "equals": text}), Facts(header)).held
            padded = text + " " if keyword in {"PatientComments", "DerivationDescription"} else f" {text} "
            if "=" not in text and not keyword.startswith("Strain"):
                assert holds(CONDITION.validate_python({"attribute": attribute, "in": [padded]}), Facts(header)).held


def test_numbers_in_text_are_numbers_however_padded() -> None:
    """Spaces around a DS or IS change nothing."""
    header = header_of(data_set("PixelSpacing", b" 0.5 \\ 0.25"))
    assert header["00280030"]["Value"] == [0.5, 0.25]
    assert header_of(data_set("SeriesNumber", b" 7 "))["00200011"]["Value"] == [7]


def test_bytes_of_unknown_vr_are_kept_whole() -> None:
    """Nothing is taken off what is no text."""
    assert header_of(element(0x00091001, "UN", b" \0 1 \0"))["00091001"] == {"vr": "UN", "InlineBinary": "IAAgMSAA"}


def test_headers_stored_with_padding_are_asked_as_if_without() -> None:
    """What was indexed before padding was taken off meets the same conditions and columns."""
    header = {
        "00100020": {"vr": "LO", "Value": [" P1"]},
        "00080060": {"vr": "CS", "Value": ["CT ", None]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": " Doe^Jane"}]},
    }
    for condition in (
        {"attribute": "PatientID", "equals": "P1"},
        {"attribute": "Modality", "only": ["CT"]},
        {"attribute": "PatientName", "in": ["Doe^Jane"]},
        {"attribute": "PatientID", "regex": "^P"},
    ):
        assert holds(CONDITION.validate_python(condition), Facts(header)).held, condition
    assert study_attributes(header)["patient_id"] == "P1"
    assert series_attributes(header)["modality"] == "CT"


def test_ae_titles_of_the_association_are_compared_without_padding() -> None:
    """An AE title in a rule may be written with the spaces that it has on the wire."""
    condition = CONDITION.validate_python({"association": "calling_aet", "equals": "CT1             "})
    assert holds(condition, Facts({}, calling_aet="CT1")).held


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"crosswalk": "PatientID", "table": "ids"}, b"A-1 "),
        ({"prepend": "PatientID", "value": "RX"}, b"RX4711"),
        ({"suffix": "PatientID", "value": "^T"}, b"4711^T"),
        ({"regex_replace": "PatientID", "regex": "^47", "with": "99"}, b"9911"),
    ],
)
def test_changes_are_made_to_the_value_not_its_padding(action: dict[str, Any], expected: bytes, syntax: str) -> None:
    """A crosswalk finds a padded key, and what is put before a value stands next to it."""
    wanted = WantedChanges(ACTIONS.validate_python([action]), lambda _, value: {"4711": "A-1"}.get(value), None)
    with morphed(io.BytesIO(data_set("PatientID", b"  4711", syntax)), syntax, wanted).content as content:
        assert element(0x00100020, "LO", expected, syntax) in content.read()
