"""Reading headers: every file a sender may have, and every way the bytes may be wrong."""

import random
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from bucky.dicom.json_model import attributes
from bucky.dicom.part10 import FileMeta, file_header, split
from bucky.errors import InvalidInstance, StoreUnavailable
from bucky.index.attributes import encode_header, instance_attributes, series_attributes, study_attributes
from bucky.store.headers import FIRST_READ_BYTES, MAX_READ_BYTES, Header, read_attributes, read_header
from bucky.store.objects import MemoryObjectStore, put_bytes

DATA = Path(pydicom.__file__).parent / "data"
IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
UNDEFINED = b"\xff\xff\xff\xff"
ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"


class CountingStore(MemoryObjectStore):
    """The fake, which remembers how much was read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int]] = []

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object, and remember which."""
        content = super().get(key, offset, length)
        self.read.append((offset, len(content)))
        return content


def _files() -> list[Path]:
    return [path for path in sorted(DATA.rglob("*")) if path.is_file() and _is_dicom(path)]


def _is_dicom(path: Path) -> bool:
    try:
        split(path.read_bytes()[:5000])
    except InvalidInstance:
        return False
    return True


@pytest.mark.parametrize("path", _files(), ids=lambda path: path.name)
def test_every_bundled_file_is_read_as_pydicom_reads_it(path: Path) -> None:
    """Odd files included, the header holds what pydicom finds before the pixels, but bulky and undecodable values."""
    content = path.read_bytes()
    header = _read(content)
    found = attributes(header.dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = pydicom.dcmread(path, stop_before_pixels=True)
        expected = {f"{tag:08X}" for tag in reference.keys() if tag < 0x7FE00000}  # noqa: SIM118
        large = {f"{one.tag:08X}" for one in reference if one.VR in {"OB", "OW", "UN"} and len(one.value or b"") > 1024}
        name = str(reference.get("PatientName", ""))
    missing = expected - set(found.model) - large - set(found.undecodable)
    assert not missing or header.problem, missing
    assert (study_attributes(found.model)["patient_name"] or "") == name.strip()[:500].rstrip("=")
    series_attributes(found.model)
    instance_attributes(found.model)
    encode_header(found.model)


@pytest.mark.parametrize(
    ("name", "problem", "undecodable"),
    [
        ("MR_truncated.dcm", "it ends within (7FE0,0010)", ()),
        ("rtplan_truncated.dcm", "it ends within (300A,00B0)", ()),
        ("badVR.dcm", "", ("00280008",)),
    ],
)
def test_what_is_wrong_is_said_and_the_rest_is_kept(name: str, problem: str, undecodable: tuple[str]) -> None:
    """A file that is cut short or holds nonsense keeps what can be read, and names what cannot."""
    header = _read((DATA / "test_files" / name).read_bytes())
    found = attributes(header.dataset)
    assert "00100010" in found.model
    assert found.undecodable == undecodable
    assert (header.problem or "").endswith(problem)


def test_pixels_are_never_read() -> None:
    """Of an instance with a gigabyte of pixels, only the first kilobytes leave the store."""
    size = 10**9
    data_set = _element(0x00100020, b"LO", b"P1") + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size)
    store = CountingStore()
    content = file_header(FileMeta("1.2", "1.3", EXPLICIT)) + data_set + b"\0" * 1_000_000
    put_bytes(store, "k", content)
    header = read_header(store, "k", len(content) - 1_000_000 + size)
    assert header.problem is None
    assert header.dataset.PatientID == "P1"
    assert sum(length for _, length in store.read) <= FIRST_READ_BYTES


def test_bulk_before_the_end_is_skipped_not_read() -> None:
    """A document or overlay of many megabytes is stepped over; what follows it is read."""
    bulk = 40 * 1024 * 1024
    store = CountingStore()
    data_set = b"".join(
        (
            _element(0x00100020, b"LO", b"P1"),
            struct.pack("<HH2sHI", 0x0042, 0x0011, b"OB", 0, bulk) + bytes(bulk),
            _element(0x00420012, b"LO", b"application/pdf "),
        )
    )
    header = _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + data_set, store)
    assert header.problem is None
    assert header.dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert sum(length for _, length in store.read) < 8 * FIRST_READ_BYTES


def test_a_header_longer_than_the_first_read_is_followed() -> None:
    """Reads grow while the header goes on, and stay of bounded size."""
    text = b"x" * 10_000
    elements = b"".join(_element(0x00090000 + 0x1000 + number, b"UN", text) for number in range(100))
    store = CountingStore()
    header = _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + elements, store)
    assert len(header.dataset) == 100
    assert len(store.read) <= 4
    assert max(length for _, length in store.read) <= MAX_READ_BYTES


@pytest.mark.parametrize("undefined", [True, False])
def test_deep_nesting_neither_crashes_nor_hides_the_rest(undefined: bool) -> None:
    """3,000 nested sequences cost the sequence, not the process, and not the patient's name."""
    nested = _nested(3000, undefined=undefined)
    content = _element(0x00080060, b"CS", b"CT") + nested + _element(0x00100020, b"LO", b"P1")
    header = _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + content)
    found = attributes(header.dataset)
    assert header.problem is None
    assert found.model["00100020"]["Value"] == ["P1"]
    assert found.undecodable


def test_a_deflate_bomb_is_bounded() -> None:
    """A megabyte that inflates to a gigabyte is given up early; what came first is kept."""
    first = _element(0x00100020, b"LO", b"P1") + struct.pack("<HH2sHI", 0x0042, 0x0011, b"OB", 0, 10**9)
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(first) + b"".join(deflater.compress(bytes(10**7)) for _ in range(4)) + deflater.flush()
    header = _read(file_header(FileMeta("1.2", "1.3", DEFLATED)) + bomb)
    assert header.problem is not None
    assert "deflated" in header.problem
    assert header.dataset.PatientID == "P1"


def test_damaged_and_cut_deflate_streams_are_named() -> None:
    """A deflated data set that is damaged or ends early is said to be so, not taken for a short one."""
    whole = b"".join(_element(0x00100020, b"LO", random.Random(1).randbytes(500)) for _ in range(50))
    deflater = zlib.compressobj(wbits=-15)
    stream = deflater.compress(whole) + deflater.flush()
    meta = file_header(FileMeta("1.2", "1.3", DEFLATED))
    assert _read(meta + stream).problem is None
    assert "cut short" in (_read(meta + stream[: len(stream) // 2]).problem or "")
    assert "damaged" in (_read(meta + b"\xff" * 100).problem or "")


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_header_cut_anywhere_is_never_taken_for_whole(cut: int) -> None:
    """Wherever a data set ends, but between two elements, the header says that it is cut short."""
    whole = _element(0x00080060, b"CS", b"CT") + _nested(2, undefined=True) + _element(0x00100020, b"LO", b"P1")
    assert len(whole) > 59
    header = _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + whole[:-cut])
    between = len(whole) - cut in {0, 10, len(whole) - 10}
    assert (header.problem is None) is between


def test_items_outside_a_sequence_are_malformed() -> None:
    """Bytes that are out of step are not read on as if they were attributes."""
    content = _element(0x00080060, b"CS", b"CT") + ITEM + UNDEFINED + _element(0x00100020, b"LO", b"P1")
    header = _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + content)
    assert "outside" in (header.problem or "")
    assert "PatientID" not in header.dataset


@pytest.mark.parametrize(("announced", "is_implicit"), [(IMPLICIT, False), (EXPLICIT, True)])
def test_a_data_set_encoded_otherwise_than_announced_is_read(announced: str, is_implicit: bool) -> None:
    """Some senders announce explicit VR and send implicit, or the other way round."""
    explicit = _element(0x00100010, b"PN", b"Doe^Jane") + _element(0x00100020, b"LO", b"P1")
    implicit = struct.pack("<HHI", 0x10, 0x10, 8) + b"Doe^Jane" + struct.pack("<HHI", 0x10, 0x20, 2) + b"P1"
    header = _read(file_header(FileMeta("1.2", "1.3", announced)) + (implicit if is_implicit else explicit))
    assert (str(header.dataset.PatientName), header.dataset.PatientID) == ("Doe^Jane", "P1")


@pytest.mark.parametrize(("group", "told"), [(0x0000, "a command set"), (0x0002, "the file meta information")])
def test_elements_of_other_places_are_named(group: int, told: str) -> None:
    """Elements of a command set or of file meta information are said to be there, and the rest is read."""
    store = MemoryObjectStore()
    content = file_header(FileMeta("1.2", "1.3", EXPLICIT)) + _element(group << 16 | 0x0010, b"UI", b"1.2\0")
    content += _element(0x00100020, b"LO", b"P1")
    put_bytes(store, "key", content)
    read = read_attributes(store, "key", len(content))
    assert read.problem is not None
    assert told in read.problem
    assert read.model["00100020"]["Value"] == ["P1"]


def test_what_is_no_dicom_file_is_refused() -> None:
    """An object that is no DICOM file is an invalid instance, not an empty header."""
    for content in (b"x", b"\0" * 500, b"\0" * 128 + b"DICM" + b"\0" * 100):
        with pytest.raises(InvalidInstance):
            _read(content)


def test_a_store_that_is_away_is_not_a_broken_file() -> None:
    """An outage in the middle of a header is passed on as an outage."""

    class Away(MemoryObjectStore):
        def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
            if offset:
                raise StoreUnavailable("away")
            return super().get(key, offset, length)

    elements = b"".join(_element(0x00091000 + number, b"UN", b"x" * 50_000) for number in range(3))
    with pytest.raises(StoreUnavailable):
        _read(file_header(FileMeta("1.2", "1.3", EXPLICIT)) + elements, Away())


def test_any_damage_is_survived() -> None:
    """Whatever bytes are changed, reading ends, with a header, a problem or a refusal, and never otherwise."""
    chance = random.Random(7)
    sources = [path.read_bytes()[:6000] for path in _files()[:: max(1, len(_files()) // 25)]]
    for round_ in range(400):
        content = bytearray(sources[round_ % len(sources)])
        for _ in range(chance.randint(1, 30)):
            content[chance.randrange(132, len(content))] = chance.choice((0, 0xFF, chance.randrange(256)))
        try:
            header = _read(bytes(content))
        except InvalidInstance:
            continue
        encode_header(attributes(header.dataset).model)


@pytest.mark.parametrize(("tag", "vr", "value"), [(0x00101030, "DS", b"70,5"), (0x00200013, "IS", b"1.x ")])
def test_an_element_that_cannot_be_decoded_is_there(tag: int, vr: str, value: bytes) -> None:
    """A condition that asks whether it is there must not be told that it is not; its value is nobody's guess."""
    dataset = Dataset()
    dataset[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    found = attributes(dataset)
    assert found.model == {f"{tag:08X}": {"vr": vr}}
    assert found.undecodable == (f"{tag:08X}",)


def test_strings_are_decoded_by_their_character_set() -> None:
    """Names in other scripts arrive as people write them, in every component group."""
    header = _read((DATA / "charset_files" / "chrH31.dcm").read_bytes())
    name = attributes(header.dataset).model["00100010"]["Value"][0]
    assert name == {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}


def test_json_holds_only_what_json_knows() -> None:
    """Infinite numbers and empty values do not make a document that browsers refuse."""
    dataset = Dataset()
    dataset.RealWorldValueSlope = float("inf")
    dataset.add_new(0x00189073, "FD", float("nan"))
    dataset.ImageType = ["A", "", "B"]
    dataset.PatientID = ""
    model = attributes(dataset).model
    assert model["00409225"]["Value"] == ["inf"]
    assert model["00189073"]["Value"] == ["nan"]
    assert model["00080008"]["Value"] == ["A", None, "B"]
    assert model["00100020"] == {"vr": "LO"}


def _read(content: bytes, store: MemoryObjectStore | None = None) -> Header:
    store = store or MemoryObjectStore()
    put_bytes(store, "k", content)
    return read_header(store, "k", len(content))


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    long = vr in {b"OB", b"SQ", b"UN"}
    return head + (struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))) + value


def _nested(depth: int, *, undefined: bool) -> bytes:
    tag, value = 0x00089121, b""
    for _ in range(depth):
        if undefined:
            value = struct.pack("<HH2sH", 0x0008, 0x9121, b"SQ", 0) + UNDEFINED + ITEM + UNDEFINED + value
            value += ITEM_END + SEQUENCE_END
        else:
            value = _element(tag, b"SQ", ITEM + struct.pack("<I", len(value)) + value)
    return value
