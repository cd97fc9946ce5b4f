"""What `bucky send` stands on: files and folders of any kind to a real SCP, one true result for each."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pydicom.data
import pytest

from bucky.cli.send_files import FileResult, Sent, send
from bucky.dicom.foreign_file import ForeignFile, read_foreign_file
from bucky.dicom.part10 import FileMeta, file_header
from bucky.dimse import Peer
from bucky.runtime.ports import free_port
from local_stack.demo_data import Expected, demo_files
from local_stack.destination import Destination, ScriptedAnswer
from tests.support.services.command_line import bucky

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"


def peer_of(destination: Destination) -> Peer:
    """Return the way to a destination."""
    return Peer("DEMO", "127.0.0.1", destination.port)


def test_every_file_gets_the_result_that_is_expected(tmp_path: Path) -> None:
    """All of pydicom's files: what can be sent is, what cannot is named with the reason, nothing is left out."""
    files = {file.path: file for file in demo_files(tmp_path / "files")}
    seen: list[FileResult] = []
    with Destination(tmp_path / "received") as destination:
        report = send([tmp_path / "files"], peer_of(destination), on_result=seen.append)
    assert {result.path for result in report.results} == files.keys()
    assert sorted(seen, key=lambda result: result.path) == sorted(report.results, key=lambda result: result.path)
    for result in report.results:
        expected = files[result.path]
        if expected.expected is Expected.UNSENDABLE:
            assert result.outcome in {Sent.FAILED, Sent.SKIPPED}, expected
            assert result.reason == expected.reason
        elif expected.expected is Expected.ACCEPTED:
            assert result.outcome is Sent.SENT, (expected, result)
            assert (result.sha256, result.size) == (expected.sha256, expected.size)
            assert result.sop_instance_uid == expected.sop_instance_uid
    assert report.bytes_sent > 2_000_000
    assert report.counts.total() == len(files)


def test_folders_are_searched_in_order_and_other_files_skipped(tmp_path: Path) -> None:
    """A folder as it lies on a disk, with its DICOMDIR and its notes, is sent whole without a word of error."""
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "b").mkdir()
    instance = TEST_FILES / "CT_small.dcm"
    (tmp_path / "b" / "2.dcm").write_bytes(instance.read_bytes())
    (tmp_path / "a.dcm").write_bytes((TEST_FILES / "MR_small.dcm").read_bytes())
    (tmp_path / "DICOMDIR").write_bytes((TEST_FILES / "dicomdirtests" / "DICOMDIR").read_bytes())
    with Destination(tmp_path.parent / "received") as destination:
        report = send([tmp_path], peer_of(destination))
    results = [(result.path.name, result.outcome) for result in report.results]
    assert results == [
        ("DICOMDIR", Sent.SKIPPED),
        ("a.dcm", Sent.SENT),
        ("notes.txt", Sent.SKIPPED),
        ("2.dcm", Sent.SENT),
    ]
    assert report.complete
    assert "table of contents" in report.results[0].reason


def test_a_refusal_is_not_a_failure_of_the_way(tmp_path: Path) -> None:
    """Whether the destination said no, or never answered, are different things to the user."""
    with Destination(tmp_path, script=lambda _received: ScriptedAnswer(0xC000, "no room for this")) as destination:
        refused = send([TEST_FILES / "CT_small.dcm"], peer_of(destination)).results[0]
    assert (refused.outcome, refused.status, refused.comment) == (Sent.REFUSED, 0xC000, "no room for this")
    assert refused.reason == "the destination answered 0xC000, cannot understand"
    failed = send([TEST_FILES / "CT_small.dcm"], Peer("DEMO", "127.0.0.1", free_port())).results[0]
    assert (failed.outcome, failed.status, failed.sha256) == (Sent.FAILED, None, "")
    assert "Connection refused" in failed.reason


def test_an_unreadable_file_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a failing disk must not end the sending of a folder."""
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes((TEST_FILES / "CT_small.dcm").read_bytes())

    def failing(path: Path) -> ForeignFile:
        if path.name == "a.dcm":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_foreign_file(path)

    monkeypatch.setattr("bucky.cli.send_files.read_foreign_file", failing)
    with Destination(tmp_path.parent / "received") as destination:
        first, second = send([tmp_path], peer_of(destination)).results
    assert (first.outcome, first.reason) == (Sent.FAILED, "the file cannot be read: Input/output error")
    assert second.outcome is Sent.SENT


def test_what_is_not_a_regular_file_fails_with_a_reason(tmp_path: Path) -> None:
    """A missing file and a pipe are answered at once: opening a pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    peer = Peer("DEMO", "127.0.0.1", free_port())
    report = send([tmp_path / "nothing", tmp_path / "pipe"], peer)
    assert [(result.outcome, result.reason) for result in report.results] == [
        (Sent.FAILED, "there is no such file"),
        (Sent.FAILED, "it is not a regular file"),
    ]
    assert not report.complete


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a DICOM file"),
        (b"\0" * 128 + b"DICM", "there is no data set"),
        (file_header(FileMeta(CT, "1.2.3", EXPLICIT)), "there is no data set"),
        (file_header(FileMeta("", "1.2.3", EXPLICIT)) + b"rest of it", "it names no SOP class"),
        (file_header(FileMeta(CT, "", EXPLICIT)) + b"rest of it", "it has no SOP Instance UID"),
        (file_header(FileMeta(CT, "1.2.3", "")) + b"rest of it", "its transfer syntax is unknown"),
        (file_header(FileMeta(CT, "1" * 70, EXPLICIT)) + b"rest of it", "is not a UID"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 200, "cannot be"),
    ],
)
def test_a_file_that_cannot_be_sent_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    """Files cut short, empty or without their identifiers are named one by one, and nothing is sent for them."""
    (tmp_path / "odd.dcm").write_bytes(content)
    (result,) = send([tmp_path], Peer("DEMO", "127.0.0.1", free_port())).results
    assert result.outcome in {Sent.FAILED, Sent.SKIPPED}
    assert reason in result.reason


def test_a_data_set_nobody_can_read_goes_out_by_its_file_meta(tmp_path: Path) -> None:
    """Whether odd bytes are worth keeping is for the destination to say: they are sent as they are."""
    (tmp_path / "odd.dcm").write_bytes(file_header(FileMeta(CT, "1.2.3", EXPLICIT)) + b"\x01odd bytes")
    with Destination(tmp_path / "received") as destination:
        (result,) = send([tmp_path / "odd.dcm"], peer_of(destination)).results
        assert list(destination.received()) == [hashlib.sha256(b"\x01odd bytes").hexdigest()]
    assert (result.outcome, result.sop_instance_uid) == (Sent.SENT, "1.2.3")


def test_a_file_given_twice_is_sent_once(tmp_path: Path) -> None:
    """`bucky send folder folder/file` must not count a file twice."""
    with Destination(tmp_path) as destination:
        report = send([TEST_FILES / "CT_small.dcm"] * 2, peer_of(destination))
        assert destination.count == 1
    assert len(report.results) == 1


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "nothing was sent: there are no files"),
        (("folder/",), "nothing was sent: there are no files"),
        (("notes.txt",), "nothing was sent: the one file is no DICOM instance"),
        (("notes.txt", "folder/image.png"), "nothing was sent: none of the 2 files is a DICOM instance"),
    ],
)
def test_sending_nothing_is_said_and_is_no_success(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    """A wrong folder, given to a script, must not pass for images that were sent; no node is asked for it."""
    folder = tmp_path / "given"
    for name in ("", *names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/") or not name:
            path.mkdir(exist_ok=True)
        else:
            path.write_text("no DICOM")
    files = sum(not name.endswith("/") for name in names)
    arguments = ("send", str(folder), "--to", f"PACS@127.0.0.1:{free_port()}")
    plain = bucky({}, *arguments)
    assert (plain.returncode, plain.stdout.splitlines()[-1], plain.stderr) == (1, said, "")
    assert plain.stdout.count("the DICM prefix is missing") == files
    as_json = bucky({}, *arguments, "--json")
    report = json.loads(as_json.stdout)
    assert (as_json.returncode, report["counts"]) == (1, {"skipped": files} if files else {})
    assert len(report["files"]) == files
