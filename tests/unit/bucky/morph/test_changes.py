"""Morphing real files: what each action does, what it leaves alone, and what it refuses."""

import hashlib
import io
import struct
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import TypeAdapter, ValidationError
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from bucky.dicom.elements import HeaderWalk
from bucky.dicom.header import encoding_of
from bucky.dicom.identity import DEFLATED
from bucky.dicom.source import StreamSource
from bucky.errors import Permanent
from bucky.morph.original import Modification
from bucky.morph.splice import Morphed, WantedChanges, morphed
from bucky.routing.changes import Action

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
MODIFICATION = Modification("BUCKY ct v7", "CT1", datetime(2026, 11, 20, 12, 30, tzinfo=UTC))
ACTIONS: TypeAdapter[tuple[Action, ...]] = TypeAdapter(tuple[Action, ...])
TABLE = {"4711": "A-1", "Doe^Jane": "Röntgen^Änne"}


def look_up(table: str, value: str) -> str | None:
    """Look a value up in the one table."""
    assert table == "ids"
    return TABLE.get(value)


def morph(content: bytes, syntax: str, *actions: dict[str, Any], record: bool = True) -> Morphed:
    """Change a data set's bytes."""
    wanted = WantedChanges(ACTIONS.validate_python(actions), look_up, MODIFICATION if record else None)
    return morphed(io.BytesIO(content), syntax, wanted)


def read(result: Morphed) -> bytes:
    """Return what would be sent."""
    with result.content as content:
        return content.read()


def encoded(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    """Return a data set's bytes."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = encoding_of(syntax)
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def decoded(content: bytes, syntax: str = EXPLICIT) -> Dataset:
    """Read a data set as pydicom does."""
    implicit, little = encoding_of(syntax)
    return pydicom.filereader.read_dataset(io.BytesIO(content), implicit, little)


def sample(**values: Any) -> Dataset:
    """Return a data set with a little of everything, and pixels."""
    dataset = Dataset()
    dataset.PatientID, dataset.PatientName, dataset.Modality = "4711", "Doe^Jane", "CT"
    dataset.StudyDescription, dataset.AccessionNumber = "Thorax routine", "7"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = "1.2.3", "1.2"
    step = Dataset()
    step.ScheduledProcedureStepID, step.RequestedProcedureID = "S1", "P1"
    other = Dataset()
    other.ScheduledProcedureStepID = "S2"
    dataset.RequestAttributesSequence = Sequence([step, other])
    dataset.SeriesNumber, dataset.Rows = 3, 2
    dataset.add_new(0x00090010, "LO", "ACME")
    dataset.add_new(0x00091001, "LO", "private")
    dataset.add_new(0x7FE00010, "OB", bytes(range(256)))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize(
    ("action", "keyword", "after"),
    [
        ({"set": "InstitutionName", "value": "Hospital"}, "InstitutionName", "Hospital"),
        ({"set": "PatientID", "value": 5}, "PatientID", "5"),
        ({"set": "ImageType", "value": ["DERIVED", "SECONDARY"]}, "ImageType", ["DERIVED", "SECONDARY"]),
        ({"set": "SliceThickness", "value": 2.5}, "SliceThickness", 2.5),
        ({"delete": "StudyDescription"}, "StudyDescription", None),
        ({"delete": "RequestAttributesSequence"}, "RequestAttributesSequence", None),
        ({"prepend": "AccessionNumber", "value": "RX-"}, "AccessionNumber", "RX-7"),
        ({"suffix": "PatientID", "value": "^T"}, "PatientID", "4711^T"),
        (
            {"regex_replace": "StudyDescription", "regex": "(?i)^(t)horax", "with": r"\1x"},
            "StudyDescription",
            "Tx routine",
        ),
        ({"copy": "AccessionNumber", "to": "StudyID"}, "StudyID", "7"),
        ({"move": "PatientName", "to": "PatientComments"}, "PatientComments", "Doe^Jane"),
        ({"move": "PatientName", "to": "PatientComments"}, "PatientName", None),
        ({"crosswalk": "PatientID", "table": "ids"}, "PatientID", "A-1"),
        ({"crosswalk": "PatientID", "table": "ids", "to": "StudyID"}, "StudyID", "A-1"),
        ({"crosswalk": "AccessionNumber", "table": "ids", "otherwise": "keep"}, "AccessionNumber", "7"),
        ({"crosswalk": "AccessionNumber", "table": "ids", "otherwise": "delete"}, "AccessionNumber", None),
    ],
)
def test_each_action_changes_its_attribute_and_no_other(
    syntax: str, action: dict[str, Any], keyword: str, after: Any
) -> None:
    """An action changes what it names, in every encoding; the pixels and all the rest stay as they were."""
    content = encoded(sample(), syntax)
    result = read(morph(content, syntax, action, record=False))
    assert decoded(result, syntax).get(keyword) == after
    touched = {tag_for_keyword(one) for one in (keyword, action.get("to"), *list(action.values())[:1]) if one}
    before, now = spans(content, syntax), spans(result, syntax)
    assert {tag: one for tag, one in before.items() if tag not in touched} == {
        tag: one for tag, one in now.items() if tag not in touched
    }


def test_a_private_attribute_can_be_copied() -> None:
    """What only a vendor's private attribute holds can be given to a destination where it looks for it."""
    result = read(morph(encoded(sample()), EXPLICIT, {"copy": "00091001", "to": "StudyID"}))
    assert decoded(result).StudyID == "private"


def test_a_path_leads_into_the_items_that_are_there() -> None:
    """A path through a sequence changes every item, or the one that is named, and makes none."""
    content = encoded(sample())
    both = morph(content, EXPLICIT, {"suffix": "RequestAttributesSequence.ScheduledProcedureStepID", "value": "x"})
    assert [(one.attribute, one.after) for one in both.changes] == [
        ("RequestAttributesSequence[0].ScheduledProcedureStepID", ("S1x",)),
        ("RequestAttributesSequence[1].ScheduledProcedureStepID", ("S2x",)),
    ]
    one = morph(content, EXPLICIT, {"set": "RequestAttributesSequence[1].RequestedProcedureID", "value": "P2"})
    items = decoded(read(one)).RequestAttributesSequence
    assert [item.get("RequestedProcedureID") for item in items] == ["P1", "P2"]
    assert morph(content, EXPLICIT, {"set": "ReferencedStudySequence.StudyID", "value": "1"}).changes == ()


def test_original_attributes_are_recorded() -> None:
    """What was replaced, removed or added is kept with who did it, when, and where the values came from."""
    result = morph(
        encoded(sample(IssuerOfPatientID="WARD")),
        EXPLICIT,
        {"set": "PatientID", "value": "X"},
        {"delete": "00091001"},
        {"set": "InstitutionName", "value": "H"},
        {"set": "RequestAttributesSequence[0].RequestedProcedureID", "value": "P9"},
    )
    content = read(result)
    (item,) = decoded(content).OriginalAttributesSequence
    assert item.ModifyingSystem == "BUCKY ct v7"
    assert item.SourceOfPreviousValues == "CT1"
    assert item.AttributeModificationDateTime == "20261120123000.000000+0000"
    assert item.ReasonForTheAttributeModification == "COERCE"
    (modified,) = item.ModifiedAttributesSequence
    assert (modified.PatientID, modified.IssuerOfPatientID, modified.InstitutionName) == ("4711", "WARD", "")
    assert (modified[0x00090010].value, modified[0x00091001].value) == ("ACME", "private")
    assert [one.ScheduledProcedureStepID for one in modified.RequestAttributesSequence] == ["S1", "S2"]
    again = read(morph(content, EXPLICIT, {"set": "PatientID", "value": "Y"}))
    first, second = decoded(again).OriginalAttributesSequence
    assert first == item
    assert second.ModifiedAttributesSequence[0].PatientID == "X"


def test_removing_an_earlier_record_leaves_none() -> None:
    """A rule that takes out the record of earlier changes does not write one about that."""
    recorded = read(morph(encoded(sample()), EXPLICIT, {"delete": "PatientName"}))
    result = decoded(read(morph(recorded, EXPLICIT, {"delete": "OriginalAttributesSequence"})))
    assert "OriginalAttributesSequence" not in result
    assert "PatientName" not in result


def test_what_changes_nothing_is_sent_as_it_came() -> None:
    """A rule that finds nothing to change leaves every byte alone and records nothing."""
    content = encoded(sample())
    result = morph(
        content,
        EXPLICIT,
        {"delete": "PatientComments"},
        {"set": "PatientID", "value": "4711"},
        {"copy": "StudyID", "to": "PatientID"},
        {"move": "PatientID", "to": "PatientID"},
        {"prepend": "StudyID", "value": "x"},
    )
    assert (result.changes, read(result)) == ((), content)


REAL = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
    "ExplVR_BigEnd.dcm",
    "rtplan.dcm",
    "reportsi.dcm",
    "emri_small_jpeg_ls_lossless.dcm",
    "nested_priv_SQ.dcm",
    "liver_1frame.dcm",
]


@pytest.mark.parametrize("name", REAL)
def test_real_files_keep_every_other_byte(name: str) -> None:
    """Of a real file, in any encoding, all elements but the changed ones and all pixels keep their very bytes."""
    path = Path(str(get_testdata_file(name)))
    with pydicom.dcmread(path, stop_before_pixels=True) as meta:
        syntax = str(meta.file_meta.TransferSyntaxUID)
        offset = 144 + meta.file_meta.FileMetaInformationGroupLength
    content = path.read_bytes()[offset:]
    result = morph(content, syntax, {"set": "InstitutionName", "value": "Hospital X"}, {"delete": "StudyTime"})
    assert result.changes
    before, after = spans(content, syntax), spans(read(result), syntax)
    touched = {0x00080080, 0x00080030, 0x04000561, 0x00080000, 0x04000000}
    assert {tag: one for tag, one in before.items() if tag not in touched} == {
        tag: one for tag, one in after.items() if tag not in touched
    }
    assert list(after) == sorted(after)
    assert b"Hospital X" in after[0x00080080]


def spans(content: bytes, syntax: str) -> dict[int, bytes]:
    """Return every element's bytes, and under -1 those of the pixels and what follows."""
    if syntax in DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content)
    implicit, little = encoding_of(syntax)
    walk = HeaderWalk(StreamSource(io.BytesIO(content)), 0, implicit=implicit, little=little)
    found = {span.tag: content[span.start : span.end] for span in walk.spans()}
    return found | {0xFFFFFFFF: content[walk.at :]}


def test_a_morphed_stream_can_be_read_in_pieces_and_rewound() -> None:
    """A sender may read in pieces of any size and start over: it gets the same bytes."""
    stream = morph(encoded(sample()), EXPLICIT, {"set": "PatientID", "value": "X"}).content
    whole = stream.read()
    stream.seek(0)
    pieces = []
    while piece := stream.read(7):
        pieces.append(piece)
    assert b"".join(pieces) == whole
    assert stream.seek(0, io.SEEK_END) == len(whole)


def test_doing_it_again_gives_the_same_bytes() -> None:
    """A delivery that is tried again sends the same bytes: a destination never sees two versions of it."""
    digests = {
        hashlib.sha256(read(morph(encoded(sample()), EXPLICIT, {"delete": "PatientName"}))).hexdigest()
        for _ in range(2)
    }
    assert len(digests) == 1


def test_text_that_needs_a_character_set_gets_one() -> None:
    """A new value with umlauts makes an instance without a character set UTF-8, and is refused where that is unsafe."""
    action = {"crosswalk": "PatientName", "table": "ids"}
    result = decoded(read(morph(encoded(sample()), EXPLICIT, action)))
    assert (result.SpecificCharacterSet, str(result.PatientName)) == ("ISO_IR 192", "Röntgen^Änne")
    binary = sample(RescaleSlope="1.0", Rows=0xC8C8)
    implicit = decoded(read(morph(encoded(binary, IMPLICIT), IMPLICIT, action)), IMPLICIT)
    assert implicit.SpecificCharacterSet == "ISO_IR 192"
    latin = decoded(read(morph(encoded(sample(SpecificCharacterSet="ISO_IR 100")), EXPLICIT, action)))
    assert (latin.SpecificCharacterSet, str(latin.PatientName)) == ("ISO_IR 100", "Röntgen^Änne")
    cyrillic = encoded(sample(SpecificCharacterSet="ISO_IR 144"))
    with pytest.raises(Permanent, match="character set does not have"):
        morph(cyrillic, EXPLICIT, action)
    undeclared = encoded(sample()).replace(b"Thorax routine", b"Th\xf6rax routine")
    with pytest.raises(Permanent, match="does not name"):
        morph(undeclared, EXPLICIT, action)


def test_an_instance_with_a_broken_part_stops_alone() -> None:
    """What cannot be read stops this instance with a reason, whatever the change needs, not the whole batch."""
    endless = struct.pack("<HH2sHI", 0x0400, 0x0550, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(endless)) + endless
    broken = struct.pack("<HH2sHI", 0x0400, 0x0561, b"SQ", 0, len(item)) + item
    content = encoded(sample()).replace(b"\xe0\x7f\x10\x00OB", broken + b"\xe0\x7f\x10\x00OB")
    with pytest.raises(Permanent, match="it is damaged: an item of"):
        morph(content, EXPLICIT, {"delete": "PatientName"})
    with pytest.raises(Permanent, match="it was not sent"):
        morph(content, EXPLICIT, {"delete": "PatientName"}, record=False)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"suffix": "StudyDescription", "value": "x" * 60}, "not valid for its VR"),
        ({"set": "StudyDate", "value": "yesterday"}, "not valid for its VR"),
        ({"set": "ExposureTimeInms", "value": "nan"}, "not valid for its VR"),
        ({"set": "ExposureTimeInms", "value": "1_0"}, "not valid for its VR"),
        ({"set": "PreferredPlaybackSequencing", "value": "1_0"}, "not valid for its VR"),
        ({"set": "SliceThickness", "value": "nan"}, "not valid for its VR"),
        ({"set": "PatientID", "value": "a\\b"}, "backslash"),
        ({"crosswalk": "AccessionNumber", "table": "ids"}, "no entry"),
        ({"crosswalk": "StudyID", "table": "ids"}, "empty"),
        ({"copy": "RequestAttributesSequence", "to": "PatientID"}, "VR is SQ"),
        ({"set": "Modality", "value": "Ö"}, "characters"),
    ],
)
def test_what_cannot_be_changed_right_is_not_sent(action: dict[str, Any], said: str) -> None:
    """A value that would not be valid DICOM, or is not in the table, stops the instance; no value is quoted."""
    with pytest.raises(Permanent, match=said) as raised:
        morph(encoded(sample()), EXPLICIT, action)
    assert not {"4711", "yesterday", "Thorax"} & set(str(raised.value).replace(".", " ").split())


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"set": "SOPInstanceUID", "value": "1.2"}, "which instance it is"),
        ({"delete": "StudyInstanceUID"}, "which instance it is"),
        ({"delete": "PixelData"}, "not a changeable"),
        ({"set": "Rows", "value": 5}, "pixels"),
        ({"delete": "TransferSyntaxUID"}, "not a changeable"),
        ({"set": "SpecificCharacterSet", "value": "ISO_IR 192"}, "follows the values"),
        ({"set": "00091001", "value": "x"}, "private"),
        ({"set": "RequestAttributesSequence", "value": "x"}, "VR SQ"),
        ({"set": "OriginalAttributesSequence.ModifyingSystem", "value": "x"}, "record of changes"),
        ({"set": "Patientname", "value": "x"}, "neither"),
        ({"move": "SOPClassUID", "to": "PatientID"}, "which instance it is"),
        ({"regex_replace": "PatientID", "regex": "(", "with": ""}, "RE2"),
        ({"regex_replace": "PatientID", "regex": "(a)", "with": r"\2"}, "groups"),
        ({"crosswalk": "RequestAttributesSequence", "table": "ids"}, "VR SQ"),
        ({"set": "PatientID"}, "value"),
        ({"paint": "PatientID"}, "needs one of"),
        ({"delete": "RequestAttributesSequence[0]"}, "ends with an item"),
    ],
)
def test_an_action_that_can_never_be_right_is_refused_when_written(action: dict[str, Any], said: str) -> None:
    """Who writes a change that would break an instance is told so before any instance meets it."""
    with pytest.raises(ValidationError, match=said):
        ACTIONS.validate_python([action])


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, "1.2.840.10008.1.2.1.99"])
def test_nothing_is_made_of_what_is_cut_short(syntax: str) -> None:
    """A data set that ends within its pixels, or a deflated one within its stream, is not sent changed."""
    content = encoded(sample(), syntax)
    with pytest.raises(Permanent, match=r"it is damaged: .*; it was not sent"):
        morph(content[:-20], syntax, {"set": "PatientID", "value": "X"})
