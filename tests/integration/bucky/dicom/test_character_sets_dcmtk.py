"""What is written in each character set is what DCMTK reads."""

import struct
import subprocess
from pathlib import Path

import pydicom
import pytest

from bucky.dicom.character_sets import named

# DCMTK converts no Japanese code extensions on every system, and not yet ISO_IR 203.
TEXTS = [
    ("ISO_IR 100", "Müller^Jürg"),
    ("ISO_IR 101", "Dvořák^Łukasz"),
    ("ISO_IR 109", "Ġużeppi^Ħ"),
    ("ISO_IR 110", "Ģirts^Ķ"),
    ("ISO_IR 126", "Διονυσιος"),
    ("ISO_IR 127", "قباني^لنزار"),
    ("ISO_IR 138", "שרון^דבורה"),
    ("ISO_IR 144", "Люксембург"),
    ("ISO_IR 148", "Çavuşoğlu"),
    ("ISO_IR 166", "นามสกุล^ชื่อ"),
    ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("GBK", "Wang^XiaoDong=王^小东"),
    ("\\ISO 2022 IR 58", "Zhang^XiaoDong=张^小东"),
    ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동"),
    ("ISO 2022 IR 100\\ISO 2022 IR 126\\ISO 2022 IR 144", "Müller^Διο^Люк"),
    ("\\ISO 2022 IR 101\\ISO 2022 IR 149", "Łódź^홍=洪ł"),
]


def _element(tag: int, vr: str, value: bytes) -> bytes:
    value += (b"\0" if vr in {"UI", "OB"} else b" ") * (len(value) % 2)
    length = struct.pack("<xxI" if vr in {"OB", "SQ"} else "<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value


@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize(("terms", "text"), TEXTS, ids=[one[0] for one in TEXTS])
def test_dcmtk_reads_what_is_written(terms: str, text: str, tmp_path: Path) -> None:
    """Names, several of them, lines, and text in a sequence come out of `dcmconv` as UTF-8 as they went in."""
    character_set = named(tuple(terms.split("\\")))
    names, lines = f"{text}\\{text}", text.replace("^", "\r\n").replace("=", "\t")
    item = _element(0x00104000, "LT", character_set.encode(lines, "LT"))
    meta = (
        _element(0x00020001, "OB", b"\0\1")
        + _element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.7")
        + _element(0x00020003, "UI", b"1.2.3")
        + _element(0x00020010, "UI", b"1.2.840.10008.1.2.1")
    )
    content = (
        _element(0x00080005, "CS", terms.encode())
        + _element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7")
        + _element(0x00080018, "UI", b"1.2.3")
        + _element(0x00081120, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
        + _element(0x00100010, "PN", character_set.encode(names, "PN"))
    )
    given, converted = tmp_path / "given.dcm", tmp_path / "utf8.dcm"
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    given.write_bytes(bytes(128) + b"DICM" + length + meta + content)
    subprocess.run(["dcmconv", "+U8", given, converted], check=True, capture_output=True)
    read = pydicom.dcmread(converted)
    assert "\\".join(map(str, read.PatientName)) == names
    assert read.ReferencedPatientSequence[0].PatientComments == lines
