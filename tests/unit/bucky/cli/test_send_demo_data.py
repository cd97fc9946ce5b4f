"""The demo's instances: enough of them, each an instance of its own, and no byte changed but in UIDs."""

import warnings
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from bucky.dicom.foreign_file import read_foreign_file
from local_stack.demo_data import DemoFile, Expected, bundled_files, demo_files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[DemoFile]:
    """The demo's files."""
    return demo_files(tmp_path_factory.mktemp("demo"))


def accepted(files: list[DemoFile]) -> list[DemoFile]:
    """Return those that must arrive."""
    return [file for file in files if file.expected is Expected.ACCEPTED]


def test_there_are_enough_instances_in_enough_transfer_syntaxes(files: list[DemoFile]) -> None:
    """The demo shows at least 150 real instances in at least 10 transfer syntaxes, and some that are refused."""
    assert len(accepted(files)) >= 150
    assert len({file.transfer_syntax_uid for file in accepted(files)}) >= 10
    assert Counter(file.expected for file in files)[Expected.REFUSED] >= 10
    assert all(file.reason for file in files if file.expected is not Expected.ACCEPTED)


def test_every_instance_is_one_of_its_own(files: list[DemoFile]) -> None:
    """Two files under one SOP Instance UID, or with the same bytes, would be one instance or a conflict."""
    assert len({file.sop_instance_uid for file in accepted(files)}) == len(accepted(files))
    assert len({file.sha256 for file in accepted(files)}) == len(accepted(files))
    for file in accepted(files):
        assert read_foreign_file(file.path).sop_instance_uid == file.sop_instance_uid


def test_nothing_but_the_uid_is_changed(files: list[DemoFile]) -> None:
    """The demo's instances are the real files: where one got a new UID, only those bytes differ."""
    sources = {name: path for path, name in bundled_files()}
    changed = 0
    for file in files:
        ours, original = file.path.read_bytes(), sources[file.source].read_bytes()
        if not file.new_uid:
            assert ours == original
            continue
        old = read_foreign_file(sources[file.source]).sop_instance_uid
        assert ours != original
        assert ours.replace(file.sop_instance_uid.encode(), old.encode()) == original
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert pydicom.dcmread(file.path, stop_before_pixels=True).SOPInstanceUID == file.sop_instance_uid
        changed += 1
    assert changed > 20


def test_a_second_run_gives_the_same(files: list[DemoFile], tmp_path: Path) -> None:
    """Running the demo again must send the same instances, not twice as many."""
    again = demo_files(tmp_path)
    assert [(file.source, file.sop_instance_uid, file.sha256) for file in again] == [
        (file.source, file.sop_instance_uid, file.sha256) for file in files
    ]
