"""What is answered to a C-STORE: a table of decisions, and the one place that turns failures into statuses."""

import logging
import struct
from pathlib import Path

import pytest

from bucky.identity import Identity
from bucky.part10 import FileMeta
from edge_scp.capacity import SpoolFull
from edge_scp.metrics import Metrics
from edge_scp.receiver import Receiver, StoreRequest
from edge_scp.reception import Caller
from edge_scp.record import verify
from edge_scp.spool import Spool
from edge_scp.spool_writer import SpoolFailed, SpoolWriter
from edge_scp.statuses import COMMENT_LENGTH, Status
from edge_scp.store_service import Refusal, StoreCommand, decide

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
CALLER = Caller("a1", "CT", "BUCKY", "127.0.0.1", "00-" + "1" * 32 + "-2222222222222222-01")


def encoded(**changes: str) -> bytes:
    """Return an implicit VR data set with its UIDs and a patient's name; an empty value leaves one out."""
    values = {"sop_class": CT, "sop_instance": "1.2.3.4", "study": "1.2.3", "series": "1.2.33", **changes}
    tags = {"sop_class": 0x00080016, "sop_instance": 0x00080018, "study": 0x0020000D, "series": 0x0020000E}
    elements = {tags[name]: value.encode() for name, value in values.items() if value}
    elements[0x00100010] = b"Secret^Name"
    body = b""
    for tag, value in sorted(elements.items()):
        padded = value + b"\0" * (len(value) % 2)
        body += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(padded)) + padded
    return body


def command(**changes: str) -> StoreCommand:
    """Return the command set that belongs to `encoded()`."""
    values = {
        "affected_sop_class_uid": CT,
        "affected_sop_instance_uid": "1.2.3.4",
        "abstract_syntax_uid": CT,
        "transfer_syntax_uid": IMPLICIT,
        **changes,
    }
    return StoreCommand(**values)


@pytest.mark.parametrize(
    ("request_command", "data_set", "status"),
    [
        (command(affected_sop_class_uid=MR), encoded(), Status.SOP_CLASS_NOT_SUPPORTED),
        (command(affected_sop_class_uid=""), encoded(), Status.SOP_CLASS_NOT_SUPPORTED),
        (command(), encoded(sop_class=MR), Status.DATA_SET_MISMATCH),
        (command(), encoded(sop_instance="1.2.3.5"), Status.DATA_SET_MISMATCH),
        (command(affected_sop_instance_uid="../../x"), encoded(), Status.CANNOT_UNDERSTAND),
        (command(affected_sop_instance_uid=""), encoded(), Status.CANNOT_UNDERSTAND),
        (command(), encoded(sop_instance="../../x"), Status.CANNOT_UNDERSTAND),
        (command(), encoded(study="../../x"), Status.CANNOT_UNDERSTAND),
        (command(), encoded(study=""), Status.CANNOT_UNDERSTAND),
        (command(), encoded(series=""), Status.CANNOT_UNDERSTAND),
        (command(), encoded(sop_instance=""), Status.CANNOT_UNDERSTAND),
        (command(), encoded(sop_class=""), Status.CANNOT_UNDERSTAND),
        (command(), b"", Status.CANNOT_UNDERSTAND),
        (command(), encoded()[:60], Status.CANNOT_UNDERSTAND),
        (command(transfer_syntax_uid=EXPLICIT), encoded(), Status.CANNOT_UNDERSTAND),
    ],
)
def test_refusals(request_command: StoreCommand, data_set: bytes, status: Status) -> None:
    """Whatever does not fit is refused with the proper status and a comment that fits and names no patient."""
    decision = decide(request_command, data_set)
    assert isinstance(decision, Refusal)
    assert decision.status is status
    assert 0 < len(decision.error_comment) <= COMMENT_LENGTH
    assert decision.error_comment.isascii()
    assert "Secret" not in decision.comment
    assert "../" not in decision.comment


def test_what_fits_is_kept_under_its_own_uids() -> None:
    """A data set that agrees with its command set is kept under the UIDs in it."""
    assert decide(command(), encoded()) == Identity(CT, "1.2.3.4", "1.2.3", "1.2.33")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An open spool."""
    spool = Spool(tmp_path, 10**9, 0)
    spool.open()
    return spool


class FailingSpool(Spool):
    """A spool whose every instance fails in one way."""

    failure: BaseException

    def begin(self, meta: FileMeta, expected_bytes: int = 0) -> SpoolWriter:
        assert meta.sop_instance_uid == "1.2.3.4"
        assert expected_bytes == len(encoded())
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (SpoolFull("The spool is full; send again later"), Status.OUT_OF_RESOURCES),
        (SpoolFailed("The spool's disk failed; send again later"), Status.OUT_OF_RESOURCES),
        (RuntimeError("Secret^Name"), Status.PROCESSING_FAILURE),
        (MemoryError(), Status.PROCESSING_FAILURE),
    ],
)
def test_no_failure_is_answered_as_success(tmp_path: Path, failure: BaseException, status: Status) -> None:
    """Whatever goes wrong is answered with a failure status and a comment that gives nothing away."""
    spool = FailingSpool(tmp_path, 10**9, 0)
    spool.open()
    spool.failure = failure
    answer = Receiver(spool, Metrics(spool)).receive(StoreRequest(command(), CALLER, memoryview(encoded())))
    assert answer.status is status
    assert 0 < len(answer.error_comment) <= COMMENT_LENGTH
    assert "Secret" not in answer.error_comment
    spool.close()


def test_success_means_one_spooled_instance_in_the_associations_trace(spool: Spool) -> None:
    """A success answer stands for one durable file, and its event will belong to the association's trace."""
    answer = Receiver(spool, Metrics(spool)).receive(StoreRequest(command(), CALLER, memoryview(encoded())))
    assert answer.status is Status.SUCCESS
    assert answer.error_comment == ""
    entry = spool.take()
    assert entry is not None
    record = verify(spool.path(entry))
    assert record.traceparent.split("-")[1] == "1" * 32
    assert record.traceparent != CALLER.traceparent
    assert (record.calling_aet, record.called_aet, record.association_id) == ("CT", "BUCKY", "a1")
    spool.close()


def test_logs_hold_no_patient_value(spool: Spool, capfd: pytest.CaptureFixture[str]) -> None:
    """Accepted or refused, an instance's log lines carry UIDs and outcomes, never what is in it."""
    logging.getLogger().handlers.clear()
    receiver = Receiver(spool, Metrics(spool))
    receiver.receive(StoreRequest(command(), CALLER, memoryview(encoded())))
    receiver.receive(StoreRequest(command(), CALLER, memoryview(encoded(study=""))))
    receiver.receive(StoreRequest(command(affected_sop_instance_uid="../x"), CALLER, memoryview(encoded())))
    out, err = capfd.readouterr()
    assert "instance.acknowledged" in out + err
    assert "instance.refused" in out + err
    assert "Secret" not in out + err
    assert "../" not in out + err
    spool.close()
