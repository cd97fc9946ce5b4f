"""The four UIDs are read from encoded bytes exactly as pydicom reads them, and hostile bytes end politely."""

import contextlib
import re
import struct
import tracemalloc
import warnings
import zlib
from itertools import pairwise
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucky.dicom.identity import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    INFLATED_BYTES,
    Identity,
    IdentityReader,
    Layouts,
    read_identity,
)
from bucky.dicom.part10 import FileMeta, split
from bucky.errors import InvalidInstance

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT = "1.2.840.10008.1.2.1.99"
SYNTAXES = (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN, DEFLATED_EXPLICIT)
FOLDER = Path(pydicom.data.__file__).parent


def file_meta(path: Path) -> tuple[FileMeta, int] | None:
    """Return a file's meta information and the offset of its data set, or None when it has none."""
    with contextlib.suppress(InvalidInstance):
        return split(path.read_bytes())
    return None


FILES = [
    path
    for kind in ("test_files", "charset_files")
    for path in sorted((FOLDER / kind).rglob("*.dcm"))
    if file_meta(path) is not None
]
EXPECTED = Identity("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", "1.2.3", "1.2.33")
# Labelled JPEG Baseline, but encoded with implicit VR: no transfer syntax means that.
MISLABELLED = {"SC_rgb_jpeg.dcm"}


def explicit(tag: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    """Encode one element with explicit VR."""
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in {b"SQ", b"UN", b"OB"}:
        return head + struct.pack(order + "HI", 0, len(value)) + value
    return head + struct.pack(order + "H", len(value)) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    """Encode one element with implicit VR."""
    size = len(value) if length is None else length
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, size) + value


def uid(value: str) -> bytes:
    """Encode a UID, padded to even length with a NUL."""
    return value.encode() + b"\0" * (len(value) % 2)


UIDS = (
    (0x00080016, EXPECTED.sop_class_uid),
    (0x00080018, EXPECTED.sop_instance_uid),
    (0x0020000D, EXPECTED.study_instance_uid),
    (0x0020000E, EXPECTED.series_instance_uid),
)
EXPLICIT_UIDS = b"".join(explicit(tag, b"UI", uid(value)) for tag, value in UIDS)
IMPLICIT_UIDS = b"".join(implicit(tag, uid(value)) for tag, value in UIDS)
UNDEFINED = 0xFFFFFFFF


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_agrees_with_pydicom(path: Path) -> None:
    """Reading headers by hand finds what pydicom finds in every bundled file, and refuses when it finds none."""
    found = file_meta(path)
    assert found is not None
    meta, offset = found
    encoded, transfer_syntax = path.read_bytes()[offset:], meta.transfer_syntax_uid
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(path)
        wanted = [
            str(data_set.get(keyword, ""))
            for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        ]
    if all(wanted) and path.name not in MISLABELLED:
        assert read_identity(encoded, transfer_syntax) == Identity(*wanted)
    else:
        with pytest.raises(InvalidInstance):
            read_identity(encoded, transfer_syntax)


@pytest.mark.parametrize(
    ("encoded", "transfer_syntax"),
    [
        (IMPLICIT_UIDS, IMPLICIT_VR_LITTLE_ENDIAN),
        (EXPLICIT_UIDS, EXPLICIT_VR_LITTLE_ENDIAN),
        (b"".join(explicit(tag, b"UI", uid(v), ">") for tag, v in UIDS), EXPLICIT_VR_BIG_ENDIAN),
        (zlib.compress(EXPLICIT_UIDS, wbits=-15), DEFLATED_EXPLICIT),
        (explicit(0x00080000, b"UL", b"\x10\0\0\0") + EXPLICIT_UIDS, EXPLICIT_VR_LITTLE_ENDIAN),
        (EXPLICIT_UIDS + b"\xe0\x7f\x10\0OW\0\0\xff", EXPLICIT_VR_LITTLE_ENDIAN),
    ],
    ids=["implicit", "explicit", "big endian", "deflated", "group length", "cut after the UIDs"],
)
def test_reads_every_encoding(encoded: bytes, transfer_syntax: str) -> None:
    """Each of the standard's encodings is read, and nothing after Series Instance UID matters."""
    assert read_identity(encoded, transfer_syntax) == EXPECTED


def nested(depth: int) -> bytes:
    """Return an element that nests sequences of undefined length so deep."""
    opening = implicit(0x00081140, b"", UNDEFINED) + implicit(0xFFFEE000, b"", UNDEFINED)
    closing = implicit(0xFFFEE00D, b"") + implicit(0xFFFEE0DD, b"")
    return opening * depth + closing * depth


def test_nesting_is_walked_without_recursion() -> None:
    """Thousands of nested sequences, which end pydicom in a RecursionError, are stepped over."""
    first_two = b"".join(implicit(tag, uid(value)) for tag, value in UIDS[:2])
    encoded = first_two + nested(20_000) + IMPLICIT_UIDS[len(first_two) :]
    assert read_identity(encoded, IMPLICIT_VR_LITTLE_ENDIAN) == EXPECTED


def test_unknown_vr_of_undefined_length_holds_implicit_elements() -> None:
    """UN of undefined length is read as implicit VR inside an explicit data set (PS3.5 §6.2.2)."""
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, UNDEFINED) + (
        implicit(0xFFFEE000, b"", UNDEFINED)
        + implicit(0x00091002, b"1.2.9\0")
        + nested(3)
        + implicit(0xFFFEE00D, b"")
        + implicit(0xFFFEE0DD, b"")
    )
    first_two = b"".join(explicit(tag, b"UI", uid(value)) for tag, value in UIDS[:2])
    encoded = first_two + unknown + EXPLICIT_UIDS[len(first_two) :]
    assert read_identity(encoded, EXPLICIT_VR_LITTLE_ENDIAN) == EXPECTED


def test_an_element_inside_a_sequence_is_not_the_instances_own() -> None:
    """A SOP Instance UID in a sequence item names another instance and is not taken for this one's."""
    item = implicit(0xFFFEE000, b"", UNDEFINED) + implicit(0x00080018, b"9.9.9\0") + implicit(0xFFFEE00D, b"")
    sequence = implicit(0x00081140, b"", UNDEFINED) + item + implicit(0xFFFEE0DD, b"")
    encoded = implicit(0x00080016, uid(EXPECTED.sop_class_uid)) + sequence + IMPLICIT_UIDS
    assert read_identity(encoded, IMPLICIT_VR_LITTLE_ENDIAN) == EXPECTED


def test_a_deflate_bomb_is_inflated_no_further_than_its_bound() -> None:
    """A megabyte that inflates to gigabytes costs at most a megabyte of memory and is refused."""
    filler = explicit(0x00091001, b"UN", bytes(200 * 1024 * 1024))
    bomb = zlib.compress(filler, level=9, wbits=-15)
    del filler
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInstance):
            read_identity(bomb, DEFLATED_EXPLICIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * INFLATED_BYTES
    finally:
        tracemalloc.stop()


def test_millions_of_tiny_elements_are_refused() -> None:
    """A header of endless empty elements is refused in bounded time."""
    with pytest.raises(InvalidInstance, match="elements before its UIDs"):
        read_identity(implicit(0x00080005, b"") * 300_000, IMPLICIT_VR_LITTLE_ENDIAN)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", ["", "../../x", "1.2.x", "1" * 65, "1.2\\1.3"])
def test_each_uid_must_be_there_and_valid(position: int, value: str) -> None:
    """A missing or malformed UID is refused by name, and its value is not repeated."""
    pairs = [(tag, value if at == position else good) for at, (tag, good) in enumerate(UIDS)]
    encoded = b"".join(implicit(tag, uid(text)) for tag, text in pairs)
    with pytest.raises(InvalidInstance, match="UID is missing or not a valid UID") as refusal:
        read_identity(encoded, IMPLICIT_VR_LITTLE_ENDIAN)
    assert not value or value not in str(refusal.value)


@pytest.mark.parametrize("padded", [b" %b\0", b"\0%b", b"  %b  ", b"%b ", b" %b"])
def test_padding_around_a_uid_means_nothing(padded: bytes) -> None:
    """A UID padded in front, which VR UI does not allow, is the UID all the same, as for DCMTK."""
    encoded = b"".join(implicit(tag, padded % value.encode()) for tag, value in UIDS)
    assert read_identity(encoded, IMPLICIT_VR_LITTLE_ENDIAN) == EXPECTED


SEEDS = (IMPLICIT_UIDS, EXPLICIT_UIDS, zlib.compress(EXPLICIT_UIDS, wbits=-15), IMPLICIT_UIDS[:40] + nested(4))


@given(
    seed=st.sampled_from(SEEDS),
    cut=st.integers(0, 300),
    noise=st.binary(max_size=40),
    at=st.integers(0, 300),
    syntax=st.sampled_from((*SYNTAXES, *DEFLATED)),
)
def test_damaged_bytes_are_refused_and_nothing_worse(seed: bytes, cut: int, noise: bytes, at: int, syntax: str) -> None:
    """Truncated or overwritten bytes give an identity or `InvalidInstance`, never another exception."""
    damaged = (seed[:at] + noise + seed[at + len(noise) :])[: cut or None]
    with contextlib.suppress(InvalidInstance):
        assert read_identity(damaged, syntax).study_instance_uid


@given(noise=st.binary(max_size=400), syntax=st.sampled_from(SYNTAXES))
def test_random_bytes_are_refused_and_nothing_worse(noise: bytes, syntax: str) -> None:
    """Random bytes give `InvalidInstance`, never another exception."""
    with pytest.raises(InvalidInstance):
        read_identity(noise, syntax)


def read_in_pieces(encoded: bytes, transfer_syntax: str, cuts: list[int]) -> Identity | None:
    """Return what a reader finds when the bytes come in pieces cut at these places, or None when refused."""
    reader = IdentityReader(transfer_syntax)
    edges = [0, *sorted(cut % (len(encoded) + 1) for cut in cuts), len(encoded)]
    for start, end in pairwise(edges):
        reader.feed(memoryview(encoded)[start:end])
    with contextlib.suppress(InvalidInstance):
        return reader.identity()
    return None


def read_whole(encoded: bytes, transfer_syntax: str) -> Identity | None:
    """Return what is found in the whole, or None when refused."""
    return read_in_pieces(encoded, transfer_syntax, [])


FIRST_TWO = b"".join(explicit(tag, b"UI", uid(value)) for tag, value in UIDS[:2])
UNKNOWN = explicit(0x00091001, b"UN", bytes(70)) + explicit(0x00091002, b"SQ", b"")
PIECES = (*SEEDS, FIRST_TWO + UNKNOWN + EXPLICIT_UIDS[len(FIRST_TWO) :], nested(3) + IMPLICIT_UIDS)


@given(
    encoded=st.sampled_from(PIECES),
    damage=st.tuples(st.integers(0, 300), st.binary(max_size=10)),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    syntax=st.sampled_from(SYNTAXES),
)
def test_pieces_make_no_difference(encoded: bytes, damage: tuple[int, bytes], cuts: list[int], syntax: str) -> None:
    """However the network cuts a data set, whole or damaged, the same identity is read or refused."""
    at, noise = damage
    damaged = encoded[:at] + noise + encoded[at + len(noise) :]
    assert read_in_pieces(damaged, syntax, cuts) == read_whole(damaged, syntax)


@given(
    seen=st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 300), st.binary(max_size=4)), max_size=12),
    syntax=st.sampled_from(SYNTAXES),
)
def test_layouts_make_no_difference(seen: list[tuple[bytes, int, bytes]], syntax: str) -> None:
    """Whatever was laid out alike before, each data set tells the same identity as without that knowledge."""
    layouts = Layouts()
    for encoded, at, noise in seen * 2:
        damaged = encoded[:at] + noise + encoded[at + len(noise) :]
        reader = IdentityReader(syntax, layouts)
        reader.feed(memoryview(damaged))
        found: Identity | None = None
        with contextlib.suppress(InvalidInstance):
            found = reader.identity()
        assert found == read_whole(damaged, syntax)


def test_a_layout_is_learnt_and_recognised() -> None:
    """The third data set with the same headers is not walked, though its values differ."""
    layouts = Layouts()
    for number in range(3):
        encoded = EXPLICIT_UIDS.replace(uid(UIDS[1][1]), uid(UIDS[1][1][:-1] + str(number)))
        assert (layouts.values(memoryview(encoded)) is not None) == (number == 2)
        reader = IdentityReader(EXPLICIT_VR_LITTLE_ENDIAN, layouts)
        assert reader.feed(memoryview(encoded))
        assert reader.identity().sop_instance_uid.endswith(str(number))


def test_ever_new_layouts_are_learnt_ever_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender whose headers never repeat costs few compilations."""
    compiled: list[bytes] = []

    def compile_nothing(pattern: bytes, _flags: int) -> re.Pattern[bytes]:
        compiled.append(pattern)
        return NEVER

    monkeypatch.setattr("bucky.dicom.identity.re.compile", compile_nothing)
    layouts = Layouts()
    for number in range(1000):
        encoded = explicit(0x00080005, b"CS", bytes(2 * number)) + EXPLICIT_UIDS
        assert IdentityReader(EXPLICIT_VR_LITTLE_ENDIAN, layouts).feed(memoryview(encoded))
    assert 1 <= len(compiled) <= 10


NEVER = re.compile(rb"(?!)")


def test_byte_by_byte_is_read_and_little_is_kept() -> None:
    """A reader fed single bytes steps over a value of megabytes without keeping it."""
    private = explicit(0x00091001, b"UN", b"")[:8] + struct.pack("<I", 50_000_000)
    reader = IdentityReader(EXPLICIT_VR_LITTLE_ENDIAN)
    head, tail = FIRST_TWO + private, EXPLICIT_UIDS[len(FIRST_TWO) :]
    for at in range(len(head)):
        assert not reader.feed(memoryview(head)[at : at + 1])
    block = memoryview(bytes(1_000_000))
    tracemalloc.start()
    try:
        for _ in range(50):
            assert not reader.feed(block)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    seen_enough = [reader.feed(memoryview(tail)[at : at + 1]) for at in range(len(tail))]
    assert seen_enough == [False] * (len(tail) - 1) + [True]
    assert reader.identity() == EXPECTED
