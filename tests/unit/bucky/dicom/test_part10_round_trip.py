"""Part 10 files as we write them, read back by ourselves and by pydicom."""

import io

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from bucky.dicom.foreign_file import read_foreign_file
from bucky.dicom.part10 import IMPLEMENTATION_CLASS_UID, FileMeta, file_header, split
from bucky.errors import InvalidInstance, Permanent
from local_stack.demo_data import bundled_files

UIDS = st.lists(st.integers(0, 99999), min_size=1, max_size=10).map(lambda parts: ".".join(map(str, parts)))
TITLES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), max_size=16)
METAS = st.builds(FileMeta, UIDS, UIDS, UIDS, TITLES, TITLES)


@given(METAS, st.binary(max_size=300))
def test_what_is_written_is_read_back(meta: FileMeta, data_set: bytes) -> None:
    """The header names the instance, and the data set begins right behind it, whatever its bytes are."""
    content = file_header(meta) + data_set
    read, offset = split(content)
    assert read == meta
    assert content[offset:] == data_set


@given(METAS)
def test_pydicom_reads_the_same_file_meta(meta: FileMeta) -> None:
    """Our files are DICOM files for others too: same UIDs, same AE titles, and the conventions of PS3.10 kept."""
    read = read_dataset(io.BytesIO(file_header(meta)[132:]), is_implicit_VR=False, is_little_endian=True)
    assert read.FileMetaInformationGroupLength == len(file_header(meta)) - 144
    assert read.MediaStorageSOPClassUID == meta.sop_class_uid
    assert read.MediaStorageSOPInstanceUID == meta.sop_instance_uid
    assert read.TransferSyntaxUID == meta.transfer_syntax_uid
    assert read.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert read.FileMetaInformationVersion == b"\x00\x01"
    assert read.get("SourceApplicationEntityTitle", "") == meta.calling_aet
    assert read.get("SendingApplicationEntityTitle", "") == ""
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid


@given(METAS, st.integers(0, 400))
def test_a_header_cut_short_is_refused(meta: FileMeta, length: int) -> None:
    """A file that ends within its header must be an error, not an instance with a wrong data set."""
    header = file_header(meta)
    if length < len(header):
        with pytest.raises(InvalidInstance):
            split(header[:length])


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_answer_or_a_refusal(rest: bytes) -> None:
    """Whatever follows the prefix, reading it raises nothing but `InvalidInstance`."""
    content = b"\0" * 128 + b"DICM" + rest
    for attempt in (content, content[:132] + b"\x02\x00\x00\x00UL\x04\x00\x30\x00\x00\x00" + rest):
        try:
            _meta, offset = split(attempt)
        except InvalidInstance:
            continue
        assert 144 <= offset <= len(attempt)


def test_real_files_are_split_where_pydicom_splits_them() -> None:
    """In every well-formed file of pydicom's, the data set begins where an independent reader says."""
    compared = 0
    for path, _name in bundled_files():
        content = path.read_bytes()
        try:
            meta, offset = split(content)
            foreign = read_foreign_file(path)
        except Permanent:
            continue
        assert offset == foreign.offset, path
        assert meta.transfer_syntax_uid == foreign.transfer_syntax_uid
        compared += 1
    assert compared > 150


def test_our_file_is_the_same_dataset_for_pydicom() -> None:
    """A data set put behind our header decodes, for pydicom, to what it was in its own file."""
    compared = 0
    for path, name in bundled_files():
        if name not in {"test_files/CT_small.dcm", "test_files/image_dfl.dcm", "test_files/ExplVR_BigEnd.dcm"}:
            continue
        foreign = read_foreign_file(path)
        header = file_header(
            FileMeta(foreign.sop_class_uid, foreign.sop_instance_uid, foreign.transfer_syntax_uid, "CT1", "BUCKY")
        )
        ours = pydicom.dcmread(io.BytesIO(header + path.read_bytes()[foreign.offset :]))
        assert ours == pydicom.dcmread(path)
        compared += 1
    assert compared == 3
