"""One reading of lengths, for the edge, its native part and the index: DCMTK's."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from bucky.dicom.elements import HeaderWalk
from bucky.dicom.header import encoding_of
from bucky.dicom.identity import Identity, IdentityReader, read_identity
from bucky.dicom.source import MalformedDataSet, StreamSource
from bucky.dicom.value_representations import LONG_VRS, SHORT_VRS, is_long
from bucky.errors import InvalidInstance

EXPLICIT, IMPLICIT, BIG, PRIVATE = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.113619.5.2",
)
UIDS = {0x00080016: b"1.2.840.1\0", 0x00080018: b"1.2.3.4\0", 0x0020000D: b"1.2.3\0", 0x0020000E: b"1.2.33"}
EXPECTED = Identity("1.2.840.1", "1.2.3.4", "1.2.3", "1.2.33")
UNDEFINED = 0xFFFFFFFF


def short(tag: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    """Encode an element with a length of 16 bits."""
    return struct.pack(order + "HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def long(tag: int, vr: bytes, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    """Encode an element with a length of 32 bits."""
    size = len(value) if length is None else length
    return struct.pack(order + "HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    """Encode an element without a VR."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def around(odd: bytes, order: str = "<") -> bytes:
    """Return a data set with something odd between its UIDs, and a patient's ID after it."""
    uids = [short(tag, b"UI", value, order) for tag, value in UIDS.items()]
    return b"".join(uids[:2]) + odd + short(0x00100020, b"LO", b"P1", order) + b"".join(uids[2:])


def walked(data_set: bytes, syntax: str) -> dict[int, tuple[str | None, bytes]]:
    """Return VR and value of each element, as the index walks them; raise where it cannot go on."""
    encoded_implicit, little = encoding_of(syntax)
    walk = HeaderWalk(StreamSource(io.BytesIO(data_set)), 0, implicit=encoded_implicit, little=little)
    return {element.tag: (element.vr, element.value) for element in walk.elements()}


def test_the_table_is_the_standards() -> None:
    """It holds the VRs that pydicom knows, with the lengths of PS3.5 Table 7.1-1."""
    assert {vr.decode() for vr in SHORT_VRS} == {str(vr) for vr in EXPLICIT_VR_LENGTH_16}
    assert {vr.decode() for vr in LONG_VRS} == {str(vr) for vr in EXPLICIT_VR_LENGTH_32}
    assert all(is_long(vr) for vr in LONG_VRS)
    assert not any(is_long(vr) for vr in SHORT_VRS)


ODD = {
    "question marks": short(0x00091001, b"??", b"ABCD"),
    "blanks": short(0x00091001, b"  ", b"ABCD"),
    "zeros": short(0x00091001, b"\0\0", b"ABCD"),
    "zeros, empty": short(0x00091001, b"\0\0", b""),
    "lower case": short(0x00091001, b"lo", b"ABCD"),
    "a letter and a digit": short(0x00091001, b"L0", b"ABCD"),
    "not ASCII": short(0x00091001, b"\xff\xfe", b"ABCD"),
    "a VR to come": long(0x00091001, b"ZZ", b"ABCD"),
    "a VR to come, long": long(0x00091001, b"XY", bytes(70_000)),
    "a VR to come, of items": long(
        0x00091001, b"ZZ", implicit(0xFFFEE000, b"AB") + implicit(0xFFFEE0DD, b""), UNDEFINED
    ),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("first", [False, True])
def test_an_unknown_vr_hides_nothing(odd: bytes, first: bool) -> None:
    """An element of no known VR, wherever it stands, ends where DCMTK has it end, for edge and index alike."""
    data_set = odd.replace(b"\x09\0\x01\x10", b"\x08\0\x01\x00") + around(b"") if first else around(odd)
    assert read_identity(data_set, EXPLICIT) == EXPECTED
    found = walked(data_set, EXPLICIT)
    assert found[0x00100020] == ("LO", b"P1")
    assert found.get(0x00080001 if first else 0x00091001, ("UN",))[0] in {"UN", "SQ"}


def test_an_unknown_vr_in_big_endian() -> None:
    """The same holds for the retired encoding."""
    for odd in (short(0x00091001, b"??", b"ABCD", ">"), long(0x00091001, b"ZZ", b"ABCD", order=">")):
        assert read_identity(around(odd, ">"), BIG) == EXPECTED
        assert walked(around(odd, ">"), BIG)[0x00100020] == ("LO", b"P1")


DELIMITED = (
    implicit(0xFFFEE000, b"", UNDEFINED)
    + short(0x0020000E, b"UI", b"1.9\0")
    + implicit(0xFFFEE00D, b"", 8)
    + implicit(0xFFFEE0DD, b"", 16)
)


def test_delimiters_have_no_value_whatever_their_length_says() -> None:
    """Item and sequence delimiters with a length end what they end, and no more (PS3.5 §7.5.1)."""
    data_set = around(long(0x00081115, b"SQ", DELIMITED, UNDEFINED))
    assert read_identity(data_set, EXPLICIT) == EXPECTED
    assert walked(data_set, EXPLICIT)[0x00100020] == ("LO", b"P1")


def item(content: bytes) -> bytes:
    """Encode an item of undefined length."""
    return implicit(0xFFFEE000, b"", UNDEFINED) + content + implicit(0xFFFEE00D, b"")


@pytest.mark.parametrize(
    "items",
    [
        item(implicit(0x00091002, b"AB")),
        item(short(0x00091002, b"LO", b"AB")),
        item(short(0x00091002, b"LO", b"AB")) + item(implicit(0x00091002, b"AB")),
        item(implicit(0x00091002, b"AB")) + item(long(0x00091002, b"OB", b"AB")) + item(b""),
        item(
            short(0x00091002, b"LO", b"AB") + long(0x00091003, b"UN", item(b"") + implicit(0xFFFEE0DD, b""), UNDEFINED)
        ),
    ],
    ids=["implicit", "explicit", "both", "both, the other way round", "nested"],
)
def test_items_of_unknown_vr_tell_their_encoding_themselves(items: bytes) -> None:
    """UN of undefined length should hold implicit VR (PS3.5 §6.2.2), and is read as what it holds."""
    data_set = around(long(0x00091001, b"UN", items + implicit(0xFFFEE0DD, b""), UNDEFINED))
    assert read_identity(data_set, EXPLICIT) == EXPECTED
    assert walked(data_set, EXPLICIT)[0x00100020] == ("LO", b"P1")


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
@pytest.mark.parametrize("empty", [b"", implicit(0x00080005, b"")])
def test_a_vendors_transfer_syntax_is_implicit_or_explicit(pieces: int, empty: bytes) -> None:
    """Which of the two is told by the data set's first element that has a value."""
    bare = b"".join(implicit(tag, value) for tag, value in [*UIDS.items()])
    for data_set in (empty + bare, around(b"")):
        reader = IdentityReader(PRIVATE)
        for at in range(0, len(data_set), pieces):
            reader.feed(memoryview(data_set)[at : at + pieces])
        assert reader.identity() == EXPECTED
        assert walked(data_set, PRIVATE)[0x0020000E][1] == b"1.2.33"


@pytest.mark.parametrize("padding", [7, 8, 512, 200_000])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_zeros_after_a_data_set_are_no_elements(padding: int, syntax: str) -> None:
    """Padding to a block's length is read past, and a data set that goes on after zeros goes on."""
    whole = around(b"") if syntax == EXPLICIT else b"".join(implicit(tag, value) for tag, value in UIDS.items())
    assert walked(whole + bytes(padding), syntax) == walked(whole, syntax)
    assert walked(bytes(16) + whole, syntax) == walked(whole, syntax)


some_elements = st.lists(
    st.one_of(
        st.builds(short, st.integers(0x00080001, 0x00080015), st.binary(min_size=2, max_size=2), st.binary(max_size=6)),
        st.builds(
            long,
            st.integers(0x00090001, 0x00190015),
            st.sampled_from([b"UN", b"SQ", b"OB", b"ZZ", b"Z1", b"un"]),
            st.binary(max_size=30),
            st.sampled_from([None, None, UNDEFINED]),
        ),
    ),
    max_size=4,
).map(b"".join)


@given(some_elements)
def test_edge_and_index_end_each_element_at_the_same_place(odd: bytes) -> None:
    """What the edge reads UIDs from, the index reads the same UIDs from."""
    data_set = odd + around(b"")
    try:
        identity = read_identity(data_set, EXPLICIT)
        found = walked(data_set, EXPLICIT)
    except (InvalidInstance, MalformedDataSet):
        return
    if all(tag in found for tag in UIDS):
        assert [found[tag][1].strip(b"\0 ").decode() for tag in UIDS] == list(identity)
