"""The short way of decoding values against the long one: whatever it decodes, it decodes the same."""

import io
import struct
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom import json_model
from bucky.dicom.coded_sets import SETS
from bucky.dicom.elements import HeaderWalk
from bucky.dicom.json_model import Attributes, attributes
from bucky.dicom.part10 import split
from bucky.dicom.plain_values import _DECODERS, plain_values
from bucky.dicom.source import StreamSource
from bucky.errors import InvalidInstance
from bucky.store.headers import read_header
from bucky.store.objects import MemoryObjectStore, put_bytes

DATA = Path(pydicom.__file__).parent / "data"
# Pieces that values are made of, plain ones and those that look so.
TOKENS = (
    *(b"\\", b" ", b"\0", b"^", b"=", b"-", b"+", b".", b"e", b"E5", b"1", b"07", b"1.25", b"-3", b"1e400", b"nan"),
    *(b"Doe", b"A_1", b"1.2.840", b"20261120", b"\x1b$B", b"\xe4", b"\xc3\xa4", b"\r\n", b"\t", b"\x0c", b"~", b"inf"),
    *(b"99999999999999999999", b"2147483648", b"-0", b"0x10", b"1_0", b"  ", b"\x7f", b"\xff\xff", b"\0\0\xc0\x7f"),
)
VALUES = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=5).map(b"".join),
    st.binary(max_size=17),
    st.integers(1, 3).flatmap(lambda count: st.binary(min_size=8 * count, max_size=8 * count)),
)
CHARACTER_SETS = [
    *sorted({f"ISO_IR {number}" for number in SETS} | {"ISO_IR 192", "GB18030", "GBK", ""}),
    *sorted(f"\\ISO 2022 IR {number}" for number in SETS),
]
# An element of each VR that implicit VR knows, and one nobody knows.
TAGS = (0x00100010, 0x00100020, 0x00080060, 0x0020000D, 0x00280030, 0x00200013, 0x00280010, 0x00280106, 0x00281101)
OTHER_TAGS = (
    0x00182042,
    0x00540081,
    0x00091001,
    0x00090010,
    0x60000010,
    0x00080005,
    0x00189073,
    0x00100000,
    0x00720063,
)


def _files() -> list[Path]:
    return [path for path in sorted(DATA.rglob("*")) if path.is_file() and _is_dicom(path)]


def _is_dicom(path: Path) -> bool:
    with suppress(InvalidInstance):
        return bool(split(path.read_bytes()[:5000]))
    return False


def _of(elements: dict[BaseTag, DataElement | RawDataElement], character_set: str) -> Attributes:
    terms = character_set.encode()
    tag = BaseTag(0x00080005)
    dataset = Dataset({tag: RawDataElement(tag, "CS", len(terms), terms, 0, False, True), **elements})
    return attributes(dataset)


def _the_long_way(elements: dict[BaseTag, DataElement | RawDataElement], character_set: str) -> Attributes:
    with patch.object(json_model, "_plain", lambda *_: None):
        return _of(elements, character_set)


@settings(max_examples=600, deadline=None)
@given(
    vr=st.sampled_from([*sorted(_DECODERS), "AE", "AT", "OB", "OW", "UN", "UR", "XX", None]),
    tag=st.sampled_from(TAGS + OTHER_TAGS),
    value=VALUES,
    little=st.booleans(),
    character_set=st.sampled_from(CHARACTER_SETS),
)
@example("IS", 0x00200013, b"9" * 18, True, "")
@example("IS", 0x00200013, b"1\\", True, "")
@example("DS", 0x00280030, b" 1.5 \\-2 ", True, "")
@example("LO", 0x00100020, b"\\", True, "")
@example("CS", 0x00080060, b" A \\ B", True, "")
@example("LO", 0x00100020, b"A~B", True, "ISO_IR 13")
@example("PN", 0x00100010, b" ^^", True, "")
@example("SS", 0x00281101, struct.pack("<hhh", -1, 0, 16), True, "")
@example("LO", 0x00100020, bytes(range(32, 127)).replace(b"\\", b""), True, "ISO_IR 100")
def test_every_value_is_decoded_the_same_both_ways(
    vr: str | None, tag: int, value: bytes, little: bool, character_set: str
) -> None:
    """Whatever VR, tag, bytes, byte order and character set: the short way never says anything else."""
    raw = RawDataElement(BaseTag(tag), vr, len(value), value, 0, vr is None, little)
    assert _of({raw.tag: raw}, character_set) == _the_long_way({raw.tag: raw}, character_set)


@pytest.mark.parametrize("vr", [*sorted(_DECODERS), "AE", "AT", "OB", "UN", "UR", "SQ"])
def test_no_value_is_the_same_nothing(vr: str) -> None:
    """An element without a value is the same both ways."""
    for value in (None, b""):
        raw = RawDataElement(BaseTag(0x00091001), vr, 0, value, 0, False, True)
        assert _of({raw.tag: raw}, "") == _the_long_way({raw.tag: raw}, "")


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.name)
def test_every_bundled_file_is_the_same_both_ways(path: Path) -> None:
    """Real headers, odd ones included, come out the same."""
    store, content = MemoryObjectStore(), path.read_bytes()
    put_bytes(store, "k", content)
    short = attributes(read_header(store, "k", len(content)).dataset)
    with patch.object(json_model, "_plain", lambda *_: None):
        assert short == attributes(read_header(store, "k", len(content)).dataset)


def test_nearly_everything_of_a_real_header_is_plain() -> None:
    """The short way is the one that is taken: of a CT's header, all but a few values in a hundred."""
    content = (DATA / "test_files/CT_small.dcm").read_bytes()
    _, start = split(content)
    elements = list(HeaderWalk(StreamSource(io.BytesIO(content)), start, implicit=False, little=True).elements())
    plain = [one for one in elements if plain_values(one.vr or "", one.value, little=True) is not None]
    assert len(plain) > 0.9 * len(elements) > 200
