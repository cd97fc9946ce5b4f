"""Conditions on values as the bytes of a data set have them, by VR: numbers, ages, names, and what is not valid."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from bucky.dicom.element import Element
from bucky.dicom.header import data_set_of
from bucky.dicom.json_model import attributes
from bucky.routing.conditions import Condition
from bucky.routing.evaluation import ConditionResult, Facts, holds

FLOAT_TENTH, FLOAT_LARGE = bytes.fromhex("cdcccc3d"), bytes.fromhex("0000804b")
LARGE_INTEGER = (2**53 + 1).to_bytes(8, "little")
ELEMENTS = (
    (0x00080020, "DA", b"2024    "),
    (0x00080021, "DA", b"20240630"),
    (0x00080022, "DA", "٢٠٢٤٠٦٣٠".encode()),
    (0x00080030, "TM", b"0930 "),
    (0x00080031, "TM", b"2561"),
    (0x00100010, "PN", b"Doe^Jane^^^ "),
    (0x00101010, "AS", b"45Y "),
    (0x00180050, "DS", b"1 "),
    (0x00180088, "DS", b"nan "),
    (0x00180060, "DS", b"1_0 "),
    (0x00181100, "DS", b"1.50"),
    (0x00189305, "FD", bytes.fromhex("9a9999999999b93f")),
    (0x00189334, "FL", FLOAT_TENTH),
    (0x00200012, "IS", b"1_0 "),
    (0x00200013, "IS", b"+05 "),
    (0x00091001, None, FLOAT_TENTH),
    (0x00091002, "FL", FLOAT_LARGE),
    (0x00091003, "UV", LARGE_INTEGER),
)


def facts() -> Facts:
    """Return the elements as a rule sees them."""
    elements = [Element(tag, vr, value, vr is None) for tag, vr, value in ELEMENTS]
    return Facts(header=attributes(data_set_of(elements, implicit=False, little=True)).model)


def asked(**condition: Any) -> ConditionResult:
    """Ask a condition about them."""
    return holds(TypeAdapter[Any](Condition).validate_python(condition), facts())


@pytest.mark.parametrize(
    ("attribute", "operator", "operand", "held"),
    [
        ("00189334", "equals", 0.1, True),
        ("00189334", "equals", "0.1", True),
        ("00189334", "equals", 0.10000000149011612, True),
        ("00189334", "equals", 0.2, False),
        ("00189334", "gt", 0.1, False),
        ("00189334", "ge", 0.1, True),
        ("00189334", "regex", r"^0\.1$", True),
        ("00091001", "equals", 0.1, True),
        ("00091002", "equals", 16777216, True),
        ("00091002", "regex", "^16777216$", True),
        ("00091003", "equals", 2**53 + 1, True),
        ("00091003", "equals", 2**53, False),
        ("00091003", "gt", 2**53, True),
        ("00189305", "equals", 0.1, True),
        ("SliceThickness", "equals", "1", True),
        ("SliceThickness", "equals", 1, True),
        ("SliceThickness", "equals", "1.0", True),
        ("SliceThickness", "regex", "^1$", True),
        ("SliceThickness", "contains", ".", False),
        ("ReconstructionDiameter", "equals", "1.5", True),
        ("ReconstructionDiameter", "regex", r"^1\.5$", True),
        ("InstanceNumber", "equals", 5, True),
        ("InstanceNumber", "regex", "^5$", True),
    ],
)
def test_a_number_is_the_same_however_it_was_written(attribute: str, operator: str, operand: Any, held: bool) -> None:
    """A rule for 0.1 or 1 must hold for the FL next to it, for DS `1`, and for an integer to its last digit."""
    assert asked(attribute=attribute, **{operator: operand}).held is held


@pytest.mark.parametrize("attribute", ["SpacingBetweenSlices", "KVP", "AcquisitionNumber"])
def test_what_python_calls_a_number_and_dicom_does_not_is_none(attribute: str) -> None:
    """`nan` and `1_0` are no numbers (PS3.5 §6.2): no rule may take them for ten, nor for any."""
    for operator, operand in (("equals", 10), ("gt", 0), ("le", 0), ("regex", "10"), ("equals", "nan")):
        assert not asked(attribute=attribute, **{operator: operand}).held, operator
    assert asked(attribute=attribute, exists=True).held
    assert not asked(attribute="SliceThickness", equals="1_0").held


def test_a_value_that_is_no_number_is_told_of() -> None:
    """The index says which numbers nobody can read, rather than keep what Python makes of them."""
    elements = [Element(tag, vr, value, False) for tag, vr, value in ELEMENTS if vr in {"DS", "IS"}]
    found = attributes(data_set_of(elements, implicit=False, little=True))
    assert found.undecodable == ("00180060", "00180088", "00200012")
    assert found.model["00180060"] == {"vr": "DS"}


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ({"equals": "Doe^Jane"}, True),
        ({"equals": "Doe^Jane^"}, True),
        ({"equals": "Doe^Jane^^^"}, True),
        ({"in": ["Roe^Ann", "Doe^Jane^^"]}, True),
        ({"only": ["Doe^Jane"]}, True),
        ({"equals": "Doe^Jane^A"}, False),
        ({"equals": "^Doe^Jane"}, False),
        ({"equals": "Doe"}, False),
    ],
)
def test_a_name_may_leave_out_what_it_does_not_have(condition: dict[str, Any], held: bool) -> None:
    """Components that are not there may be left out with their delimiters (PS3.5 §6.2.1.1): it is the same person."""
    assert asked(attribute="PatientName", **condition).held is held


@pytest.mark.parametrize(
    ("condition", "held"),
    [
        ({"equals": "045Y"}, True),
        ({"equals": "45Y"}, True),
        ({"ge": "45Y"}, True),
        ({"lt": "046Y"}, True),
        ({"equals": "540M"}, False),
        ({"ge": "540M"}, True),
        ({"equals": "45"}, False),
    ],
)
def test_an_age_is_the_same_with_and_without_its_zeros(condition: dict[str, Any], held: bool) -> None:
    """The standard has three digits (PS3.5 §6.2): a rule or a sender with two must not miss the other."""
    assert asked(attribute="PatientAge", **condition).held is held


@pytest.mark.parametrize(
    ("attribute", "operand"), [("StudyDate", "20240101"), ("AcquisitionDate", "20240101"), ("SeriesTime", "1200")]
)
def test_what_is_no_date_comes_neither_before_nor_after(attribute: str, operand: str) -> None:
    """A malformed date must not match by its letters, and the explanation says that it has no order."""
    for operator in ("gt", "ge", "lt", "le"):
        verdict = asked(attribute=attribute, **{operator: operand})
        assert not verdict.held, operator
        assert "so it has no order" in verdict.found[0]
    assert "no order" not in asked(attribute="SeriesDate", gt="20240101").found[0]
    assert "no order" not in asked(attribute=attribute, equals=operand).found[0]


def test_a_number_is_not_compared_with_a_word() -> None:
    """`gt: abc` of a number would be decided by the letters, which say nothing of it."""
    for operator in ("gt", "lt"):
        assert not asked(attribute="InstanceNumber", **{operator: "abc"}).held
