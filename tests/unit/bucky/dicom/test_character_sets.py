"""Text in every character set of DICOM: decoded, encoded, and found again in index, conditions and changes."""

import io
import struct
from typing import Any

import pytest
from pydantic import TypeAdapter

from bucky.dicom.character_sets import named
from bucky.dicom.header import read_data_set
from bucky.dicom.json_model import attributes
from bucky.dicom.source import StreamSource
from bucky.errors import Permanent
from bucky.morph.splice import WantedChanges, morphed
from bucky.routing.changes import Action
from bucky.routing.conditions import Condition
from bucky.routing.evaluation import Facts, holds

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
ESC = b"\x1b"
CONDITION: TypeAdapter[Condition] = TypeAdapter(Condition)
ACTIONS: TypeAdapter[tuple[Action, ...]] = TypeAdapter(tuple[Action, ...])


def jis(text: str, back: bytes = b"(B") -> bytes:
    """Return text in JIS X 0208, and the way back."""
    return text.encode("iso2022_jp").removesuffix(ESC + b"(B") + ESC + back


def korean(text: str) -> bytes:
    """Return text in KS X 1001."""
    return ESC + b"$)C" + text.encode("euc_kr")


def chinese(text: str) -> bytes:
    """Return text in GB 2312."""
    return ESC + b"$)A" + text.encode("gb2312")


# The names of PS3.5 Annexes H to K, and one for every other defined term, as the standard has them in bytes.
NAMES: list[tuple[tuple[str, ...], str, bytes]] = [
    (("ISO_IR 100",), "Buc^J\xe9r\xf4me", b"Buc^J\xe9r\xf4me"),
    (("ISO_IR 101",), "W\u0142och", "W\u0142och".encode("iso8859_2")),
    (("ISO_IR 109",), "\u0120u\u017ceppi", "\u0120u\u017ceppi".encode("iso8859_3")),
    (("ISO_IR 110",), "\u0122irts", "\u0122irts".encode("iso8859_4")),
    (("ISO_IR 126",), "Διονυσιος", "Διονυσιος".encode("iso8859_7")),
    (("ISO_IR 127",), "قباني^لنزار", "قباني^لنزار".encode("iso8859_6")),
    (("ISO_IR 138",), "שרון^דבורה", "שרון^דבורה".encode("iso8859_8")),
    (("ISO_IR 144",), "Люксембург", "Люксембург".encode("iso8859_5")),
    (("ISO_IR 148",), "Çavuşoğlu", "Çavuşoğlu".encode("iso8859_9")),
    (("ISO_IR 166",), "นามสกุล", "นามสกุล".encode("tis_620")),
    (("ISO_IR 203",), "Œuvre", "Œuvre".encode("iso8859_15")),
    (("ISO_IR 13",), "ﾔﾏﾀﾞ^ﾀﾛｳ", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
    (("ISO_IR 192",), "Wang^XiaoDong=王^小東=", "Wang^XiaoDong=王^小東=".encode()),
    (("GB18030",), "Wang^XiaoDong=王^小东=\U00020000", "Wang^XiaoDong=王^小东=\U00020000".encode("gb18030")),
    (("GBK",), "Wang^XiaoDong=王^小東", "Wang^XiaoDong=王^小東".encode("gbk")),
    (
        ("", "ISO 2022 IR 87"),
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        b"Yamada^Tarou=" + jis("山田") + b"^" + jis("太郎") + b"=" + jis("やまだ") + b"^" + jis("たろう"),
    ),
    (
        ("ISO 2022 IR 13", "ISO 2022 IR 87"),
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=" + jis("山田", b"(J") + b"^" + jis("太郎", b"(J"),
    ),
    (("", "ISO 2022 IR 159"), "X=丂^丄", b"X=" + ESC + b"$(D0!" + ESC + b"(B^" + ESC + b'$(D0"' + ESC + b"(B"),
    (
        ("", "ISO 2022 IR 149"),
        "Hong^Gildong=洪^吉洞=홍^길동",
        b"Hong^Gildong=" + korean("洪") + b"^" + korean("吉洞") + b"=" + korean("홍") + b"^" + korean("길동"),
    ),
    (
        ("", "ISO 2022 IR 58"),
        "Zhang^XiaoDong=张^小东",
        b"Zhang^XiaoDong=" + chinese("张") + b"^" + chinese("小东"),
    ),
    (
        ("ISO 2022 IR 6", "ISO 2022 IR 100", "ISO 2022 IR 144", "ISO 2022 IR 126"),
        "Müller^Люк=Διο",
        b"M" + ESC + b"-A\xfcller^" + ESC + b"-L\xbb\xee\xda=" + ESC + b"-F" + "Διο".encode("iso8859_7"),
    ),
    (
        ("ISO 2022 IR 100", "ISO 2022 IR 148", "ISO 2022 IR 166", "ISO 2022 IR 203"),
        "Ünal^Ş=น=€",
        b"\xdcnal^" + ESC + b"-M\xde=" + ESC + b"-T\xb9=" + ESC + b"-b\xa4",
    ),
    *[
        (("", f"ISO 2022 IR {number}"), text, ESC + escape + text.encode(codec))
        for number, escape, text, codec in (
            (101, b"-B", "ł", "iso8859_2"),
            (109, b"-C", "Ħ", "iso8859_3"),
            (110, b"-D", "Ķ", "iso8859_4"),
            (127, b"-G", "قباني", "iso8859_6"),
            (138, b"-H", "שרון", "iso8859_8"),
        )
    ],
    (("", "ISO 2022 IR 13"), "ﾔﾏ", ESC + b")I\xd4\xcf"),
]


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """Return an element's bytes."""
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    if vr == "SQ":
        return head + b"SQ\0\0" + struct.pack("<I", len(value)) + value
    return head + vr.encode() + struct.pack("<H", len(value)) + value


def data_set(terms: tuple[str, ...], name: bytes, nested: tuple[str, ...] | None, syntax: str = EXPLICIT) -> bytes:
    """Return a data set with a name at the top and one in an item, which may name a character set of its own."""
    own = b"" if nested is None else element(0x00080005, "CS", "\\".join(nested).encode(), syntax)
    content = own + element(0x00104000, "LT", name, syntax)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    top = () if nested is not None else terms
    return (
        (element(0x00080005, "CS", "\\".join(top).encode(), syntax) if top else b"")
        + element(0x00081120, "SQ", item, syntax)
        + element(0x00100010, "PN", b"A^B" if nested is not None else name + b"\\" + name, syntax)
    )


def header_of(content: bytes, syntax: str = EXPLICIT) -> dict[str, Any]:
    """Return what the index keeps."""
    read, problem = read_data_set(StreamSource(io.BytesIO(content)), 0, syntax)
    assert problem is None
    return attributes(read).model


def groups(name: str) -> dict[str, str]:
    """Return a person name as DICOM JSON has it."""
    return {
        key: group
        for key, group in zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False)
        if group
    }


def morph(content: bytes, action: dict[str, Any], syntax: str = EXPLICIT) -> bytes:
    """Return a data set's bytes, changed."""
    wanted = WantedChanges(ACTIONS.validate_python([action]), lambda *_: None, None)
    with morphed(io.BytesIO(content), syntax, wanted).content as changed:
        return changed.read()


@pytest.mark.parametrize(("terms", "text", "value"), NAMES, ids=["+".join(one[0]) for one in NAMES])
def test_a_name_in_every_character_set_is_read_and_written(terms: tuple[str, ...], text: str, value: bytes) -> None:
    """Decoding gives the letters and no escape sequence, encoding the standard's bytes; twice in one element too."""
    character_set = named(terms)
    assert character_set.decode(value, "PN", strict=True) == text
    assert character_set.encode(text, "PN") == value
    twice = text + "\\" + text
    assert character_set.decode(character_set.encode(twice, "PN"), "PN", strict=True) == twice


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize(("terms", "text", "value"), NAMES, ids=["+".join(one[0]) for one in NAMES])
def test_index_conditions_and_changes_see_the_same_text(
    terms: tuple[str, ...], text: str, value: bytes, syntax: str
) -> None:
    """At the top, and in items with a character set of their own or without: read, matched and changed right."""
    for nested in (None, terms):
        content = data_set(terms, value, nested, syntax)
        header = header_of(content, syntax)
        in_item = {"attribute": "ReferencedPatientSequence.PatientComments", "contains": text[:3]}
        assert holds(CONDITION.validate_python(in_item), Facts(header)).held
        changed = morph(content, {"suffix": "ReferencedPatientSequence.PatientComments", "value": "x"}, syntax)
        comments = header_of(changed, syntax)["00081120"]["Value"][0]["00104000"]["Value"]
        assert comments == [header["00081120"]["Value"][0]["00104000"]["Value"][0] + "x"]
        if nested is None:
            assert header["00100010"]["Value"] == [groups(text)] * 2
            changed = morph(content, {"suffix": "PatientName", "value": "^X"}, syntax)
            assert header_of(changed, syntax)["00100010"]["Value"] == [groups(text + "^X")] * 2


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (("", "ISO 2022 IR 87"), "Süd"),
        (("", "ISO 2022 IR 149"), "Süd"),
        (("ISO 2022 IR 13", "ISO 2022 IR 87"), "Süd"),
        (("ISO_IR 13",), "山"),
        (("ISO_IR 100",), "Łódź"),
        (("ISO_IR 144",), "Süd"),
        (("", "ISO 2022 IR 58"), "홍"),
        (("GBK",), "\U00020000"),
        (("ISO_IR 100",), "山\x1b"),
    ],
)
def test_a_letter_that_the_repertoire_lacks_is_an_error(terms: tuple[str, ...], text: str) -> None:
    """No foreign byte and no question mark takes its place: the instance is not sent, and no value is quoted."""
    content = data_set(terms, b"Yamada", None)
    with pytest.raises(Permanent, match="character set does not have") as raised:
        morph(content, {"set": "InstitutionName", "value": text})
    assert text not in str(raised.value)


def test_text_that_is_not_in_its_character_set_is_not_changed() -> None:
    """What cannot be read cannot be written again; setting another value is still allowed."""
    content = data_set(("ISO_IR 192",), b"M\xfcller", None)
    with pytest.raises(Permanent, match="cannot be decoded"):
        morph(content, {"suffix": "PatientName", "value": "X"})
    assert header_of(morph(content, {"set": "PatientName", "value": "Ö"}))["00100010"]["Value"] == [groups("Ö")]


def test_undeclared_text_in_a_sequence_keeps_the_character_set() -> None:
    """An instance does not become UTF-8 when an item has bytes that this would make something else."""
    content = data_set((), b"S\xfcd", None).replace(b"S\xfcd\\S\xfcd", b"Sud\\Sud")
    assert content.count(b"\xfc") == 1
    with pytest.raises(Permanent, match="does not name"):
        morph(content, {"set": "InstitutionName", "value": "Süd"})
    own = data_set((), b"S\xfcd", ("ISO_IR 100",))
    header = header_of(morph(own, {"set": "InstitutionName", "value": "Süd"}))
    assert (header["00080005"]["Value"], header["00080080"]["Value"]) == (["ISO_IR 192"], ["Süd"])
    assert header["00081120"]["Value"][0]["00104000"]["Value"] == ["Süd"]


@pytest.mark.parametrize(
    ("terms", "value", "text"),
    [
        (("ISO 2022 IR 149",), "홍길동".encode("euc_kr"), "홍길동"),  # value 1 is no single-byte set
        (("ISO 2022 IR 149",), korean("홍") + b"^" + korean("길동"), "홍^길동"),
        (("", "ISO 2022 IR 149"), korean("홍") + b"^" + "길동".encode("euc_kr"), "홍^길동"),  # not named again
        (("ISO 2022 IR 6", "ISO 2022 IR 87"), ESC + b"$@;3ED" + ESC + b"(B", "山田"),
        (("ISO_IR 100",), jis("山田"), "山田"),  # not declared
        (("iso-ir 100",), b"M\xfcller", "Müller"),
        (("ISO IR 192",), "Müller".encode(), "Müller"),
        (("",), b"M\xfcller", "Müller"),
    ],
)
def test_odd_senders_are_understood(terms: tuple[str, ...], value: bytes, text: str) -> None:
    """Character sets that are spelt, declared or invoked not quite as the standard says."""
    assert named(terms).decode(value, "PN") == text


PROGRAMS_NAMES = [
    ("UTF-8", "山田^太郎", "山田^太郎".encode()),
    ("utf8", "Müller^Ö", "Müller^Ö".encode()),
    ("Shift_JIS", "表^ソフト", "表^ソフト".encode("cp932")),  # 0x5C is the second byte of both
    ("SJIS", "山田^太郎", "山田^太郎".encode("cp932")),
    ("EUC-KR", "홍^길동", "홍^길동".encode("euc_kr")),
    ("GB2312", "王^小东", "王^小东".encode("gb2312")),
    ("Big5", "許^功蓋", "許^功蓋".encode("big5")),
    ("ISO-8859-1", "Müller^Ö", b"M\xfcller^\xd6"),
    ("ISO8859_15", "Œuvre", "Œuvre".encode("iso8859_15")),
    ("windows-1251", "Иванов", "Иванов".encode("cp1251")),
]


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize(("term", "text", "value"), PROGRAMS_NAMES, ids=[one[0] for one in PROGRAMS_NAMES])
def test_a_set_named_as_programs_name_it_is_read_and_not_written(
    term: str, text: str, value: bytes, syntax: str
) -> None:
    """Index and rules see what is meant; a change is ASCII, or refused: who reads it need not know such a name."""
    content = data_set((term,), value, None, syntax)
    header = header_of(content, syntax)
    assert header["00100010"]["Value"] == [groups(text)] * 2
    assert holds(CONDITION.validate_python({"attribute": "PatientName", "equals": text}), Facts(header)).held
    for action in ({"suffix": "PatientName", "value": "^X"}, {"set": "InstitutionName", "value": text}):
        with pytest.raises(Permanent, match="no defined term") as raised:
            morph(content, action, syntax)
        assert text not in str(raised.value)
    changed = morph(content, {"set": "InstitutionName", "value": "Clinic"}, syntax)
    added = element(0x00080080, "LO", b"Clinic", syntax)
    assert (changed.replace(added, b""), changed.count(added)) == (content, 1)


@pytest.mark.parametrize(
    ("terms", "value", "text"),
    [
        (("Klingon",), b"M\xfcller", "Müller"),
        (("ISO_IR 999",), b"M\xfcller", "Müller"),
        (("UTF-8",), b"M\xfcller", "M\ufffdller"),
        (("UTF-8",), jis("山田"), ";3ED"),
        (("ISO_IR 192",), jis("山田"), ";3ED"),
        (("Shift_JIS",), jis("山田"), ";3ED"),
    ],
)
def test_text_in_a_set_that_nobody_knows_is_not_changed(terms: tuple[str, ...], value: bytes, text: str) -> None:
    """What was guessed at, or had to leave something out, is shown to people and never written again."""
    assert named(terms).decode(value, "PN") == text
    content = data_set(terms, value, None)
    for action in (
        {"suffix": "PatientName", "value": "X"},
        {"copy": "PatientName", "to": "InstitutionName"},
        {"crosswalk": "PatientName", "table": "ids"},
    ):
        with pytest.raises(Permanent, match="cannot be decoded"):
            morph(content, action)
    plain = data_set(("Klingon",), b"Muller", None)
    with pytest.raises(Permanent, match="no defined term"):
        morph(plain, {"set": "InstitutionName", "value": "Süd"})


def test_lines_and_values_begin_anew() -> None:
    """A code extension ends with a line, or with a value where there are several (PS3.5 §6.1.2.5.3)."""
    character_set = named(("", "ISO 2022 IR 87"))
    assert character_set.encode("山\r\n田", "LT") == jis("山") + b"\r\n" + jis("田")
    assert character_set.encode("山\\田", "LO") == jis("山") + b"\\" + jis("田")
    assert character_set.decode(ESC + b"$B;3\r\nED", "LT") == "山\r\nED"
    assert named(("", "ISO 2022 IR 58")).decode(chinese("张") + b"\\A", "LO") == "张\\A"
