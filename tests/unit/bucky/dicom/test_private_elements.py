"""A private element is the same in every transfer syntax: in the index, in conditions and in changes."""

import io
import struct
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from bucky.dicom.header import read_data_set
from bucky.dicom.json_model import attributes
from bucky.dicom.source import StreamSource
from bucky.errors import Permanent
from bucky.morph.splice import WantedChanges, morphed
from bucky.routing.changes import Action
from bucky.routing.conditions import Condition
from bucky.routing.evaluation import Facts, holds

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
AS_UN = "sent as UN"
CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
ACTIONS: TypeAdapter[tuple[Action, ...]] = TypeAdapter(tuple[Action, ...])
ELEMENT = 0x00091001


def element(tag: int, vr: str, value: bytes, way: str) -> bytes:
    """Return an element's bytes; private ones lose their VR in implicit VR and when sent as UN."""
    value += b" " * (len(value) % 2)
    order = ">" if way == BIG else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if way == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if way == AS_UN and tag == ELEMENT:
        vr = "UN"
    if vr in {"SQ", "UN", "UT"}:
        return head + vr.encode() + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + vr.encode() + struct.pack(order + "H", len(value)) + value


def data_set(vr: str, value: bytes, way: str, creator: bytes = b"TESTPRIV") -> bytes:
    """Return a data set with one private element."""
    return (
        element(0x00080005, "CS", b"ISO_IR 192", way)
        + element(0x00090010, "LO", creator, way)
        + element(ELEMENT, vr, value, way)
        + element(0x00100020, "LO", b"P1", way)
    )


def syntax_of(way: str) -> str:
    """Return the transfer syntax."""
    return EXPLICIT if way == AS_UN else way


def header_of(content: bytes, way: str) -> dict[str, Any]:
    """Return what the index keeps."""
    read, problem = read_data_set(StreamSource(io.BytesIO(content)), 0, syntax_of(way))
    assert problem is None
    return attributes(read).model


def is_held(content: bytes, way: str, **test: Any) -> bool:
    """Return whether a condition on the private element holds."""
    condition = CONDITION.validate_python({"attribute": "00091001", **test})
    return holds(condition, Facts(header_of(content, way))).held


WAYS = [EXPLICIT, BIG, IMPLICIT, AS_UN]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("vr", "value", "test", "held"),
    [
        ("LO", b"STROKE", {"equals": "STROKE"}, True),
        ("LO", b" STROKE ", {"equals": "STROKE"}, True),
        ("CS", b"A\\ B", {"in": ["B", "C"]}, True),
        ("CS", b"A\\B", {"only": ["A", "B"]}, True),
        ("CS", b"A\\B", {"only": ["A"]}, False),
        ("LO", "Müller".encode(), {"regex": "^M.ller$"}, True),
        ("LT", b"one\r\ntwo", {"contains": "two"}, True),
        ("UT", b"long " * 1000, {"contains": "long long"}, True),
        ("DS", b"12.5", {"gt": 12}, True),
        ("DS", b"12.5", {"lt": 12}, False),
        ("IS", b"7", {"equals": 7}, True),
        ("DA", b"20240630", {"ge": "20240101"}, True),
        ("LO", b"STROKE", {"exists": True}, True),
        ("LO", b"", {"exists": True}, True),
        ("LO", b"STROKE", {"equals": "CARDIAC"}, False),
    ],
)
def test_text_meets_the_same_conditions(vr: str, value: bytes, test: dict[str, Any], held: bool, way: str) -> None:
    """What an unknown vendor writes as text is text, whether or not the transfer syntax says so."""
    assert is_held(data_set(vr, value, way), way, **test) is held


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("vr", "number", "kind"),
    [("US", 5, "H"), ("SS", -5, "h"), ("UL", 70000, "I"), ("FL", 0.5, "f"), ("FD", 0.1, "d"), ("US", 0x3131, "H")],
)
def test_numbers_meet_the_same_conditions(vr: str, number: float, kind: str, way: str) -> None:
    """A number equals itself however it was sent; for its order a rule names the VR."""
    content = data_set(vr, struct.pack((">" if way == BIG else "<") + kind, number), way)
    assert is_held(content, way, equals=number)
    assert is_held(content, way, only=[number])
    assert not is_held(content, way, equals=number + 1)
    assert is_held(content, way, gt=number - 1, vr=vr)
    assert not is_held(content, way, gt=number, vr=vr)


def test_an_order_is_not_guessed() -> None:
    """Bytes that may be several numbers are neither greater nor less than anything, and have no text in them."""
    content = data_set("US", b"\xff\xff", IMPLICIT)
    assert not is_held(content, IMPLICIT, gt=0)
    assert not is_held(content, IMPLICIT, lt=0)
    assert not is_held(content, IMPLICIT, contains="6")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("creator", [b"SIENET", b" SIENET "])
def test_a_known_creator_says_the_vr(creator: bytes, way: str) -> None:
    """The dictionary of private elements is asked, by the creator as it is without padding."""
    content = data_set("US", struct.pack(">H" if way == BIG else "<H", 5), way, creator)
    assert header_of(content, way)["00091001"] == {"vr": "US", "Value": [5]}
    assert is_held(content, way, gt=4)


@pytest.mark.parametrize("way", WAYS)
def test_a_private_sequence_is_a_sequence(way: str) -> None:
    """A path leads through the items of a private sequence, which in implicit VR nothing names as one."""
    inner = element(0x00080060, "CS", b"CT", IMPLICIT if way == AS_UN else way)
    order = ">" if way == BIG else "<"
    items = struct.pack(order + "HHI", 0xFFFE, 0xE000, len(inner)) + inner
    header = header_of(data_set("SQ", items * 2, way), way)
    assert header["00091001"] == {"vr": "SQ", "Value": [{"00080060": {"vr": "CS", "Value": ["CT"]}}] * 2}
    condition = CONDITION.validate_python({"attribute": "00091001[1].Modality", "equals": "CT"})
    assert holds(condition, Facts(header)).held


@pytest.mark.parametrize("value", [b"\xfe\xff\x00\xe0\xff\xff\xff\xffABCD", b"\xfe\xff\x00\xe0\4\0\0\0ABCD"])
def test_what_only_looks_like_a_sequence_stays_bytes(value: bytes) -> None:
    """Bytes that begin as items do, and are none, are not lost."""
    assert "00091001" in header_of(data_set("UN", value, IMPLICIT), IMPLICIT)


@pytest.mark.parametrize("way", WAYS)
def test_changes_read_it_the_same(way: str) -> None:
    """It is copied, and looked up, from every transfer syntax."""
    for action, expected in (
        ({"copy": "00091001", "to": "StudyID"}, "STROKE"),
        ({"crosswalk": "00091001", "table": "ids", "to": "StudyID"}, "A-1"),
    ):
        wanted = WantedChanges(ACTIONS.validate_python([action]), lambda _, value: {"STROKE": "A-1"}[value], None)
        content = io.BytesIO(data_set("LO", b" STROKE", way))
        with morphed(content, syntax_of(way), wanted).content as changed:
            assert header_of(changed.read(), way)["00200010"]["Value"] == [expected]


def test_bytes_that_are_no_text_are_not_copied() -> None:
    """A change does not guess: the instance is not sent, and says why."""
    wanted = WantedChanges(ACTIONS.validate_python([{"copy": "00091001", "to": "StudyID"}]), lambda *_: None, None)
    with pytest.raises(Permanent, match="VR is UN"):
        morphed(io.BytesIO(data_set("US", b"\5\0", IMPLICIT)), IMPLICIT, wanted)


def test_a_vr_without_values_is_refused() -> None:
    """Who writes a rule is told what `vr` can be."""
    with pytest.raises(ValidationError, match="such as LO or US"):
        CONDITION.validate_python({"attribute": "00091001", "equals": "1", "vr": "SQ"})


LATIN = b"S\xfcdklinik\\Gro\xdf"


def with_character_set(way: str, character_set: bytes, value: bytes) -> bytes:
    """Return a data set with a private text, and one of the standard's, in a character set."""
    named = element(0x00080005, "CS", b"ISO_IR 192", way)
    return data_set("LO", value, way).replace(named, element(0x00080005, "CS", character_set, way))


def changed(content: bytes, way: str, action: dict[str, Any]) -> bytes:
    """Return a data set's bytes with one change that is recorded nowhere."""
    wanted = WantedChanges(ACTIONS.validate_python([action]), lambda *_: None, None)
    with morphed(io.BytesIO(content), syntax_of(way), wanted).content as result:
        return result.read()


@pytest.mark.parametrize("way", WAYS)
def test_a_private_text_stays_byte_for_byte(way: str) -> None:
    """What a vendor wrote in Latin-1 is the same bytes after any other change, and its copy has the same letters."""
    content = with_character_set(way, b"ISO_IR 100", LATIN)
    result = changed(content, way, {"set": "PatientID", "value": "Ö"})
    before, after = element(0x00100020, "LO", b"P1", way), element(0x00100020, "LO", b"\xd6", way)
    assert result == content.replace(before, after)
    copied = changed(content, way, {"copy": "00091001", "to": "InstitutionalDepartmentName"})
    assert element(0x00081040, "LO", LATIN, way) in copied
    assert copied.replace(element(0x00081040, "LO", LATIN, way), b"") == content
    moved = changed(content, way, {"move": "00091001", "to": "InstitutionalDepartmentName"})
    assert (moved.count(LATIN), element(0x00081040, "LO", LATIN, way) in moved) == (1, True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [LATIN, b"S\xfcd", "Иванов".encode("iso8859_5"), b"Gro\xdf\xfc"])
def test_a_private_text_in_no_named_set_is_not_made_another(way: str, value: bytes) -> None:
    """Naming UTF-8 for a new value would make another text of it for whoever knows the vendor."""
    content = with_character_set(way, b"", value)
    with pytest.raises(Permanent, match="text in a character set that it does not name"):
        changed(content, way, {"set": "InstitutionName", "value": "Süd"})
    with pytest.raises(Permanent, match=r"cannot be (changed|decoded)"):
        changed(content, way, {"copy": "00091001", "to": "InstitutionName"})
    plain = changed(content, way, {"set": "PatientID", "value": "P2"})
    assert plain == content.replace(element(0x00100020, "LO", b"P1", way), element(0x00100020, "LO", b"P2", way))


@pytest.mark.parametrize("value", [b"\xc8\0", b"\xe9\x61", struct.pack("<f", 100.5), struct.pack("<I", 0xE9A1B2C3)])
def test_a_private_number_is_no_text_that_stands_in_the_way(value: bytes) -> None:
    """A number whose bytes could be letters must not keep an instance from having a new value."""
    content = with_character_set(IMPLICIT, b"", value)
    result = changed(content, IMPLICIT, {"set": "InstitutionName", "value": "Süd"})
    assert header_of(result, IMPLICIT)["00080005"]["Value"] == ["ISO_IR 192"]
    assert element(ELEMENT, "UN", value, IMPLICIT) in result
