"""What is answered to a C-STORE: a table of decisions, and the one place that turns failures into statuses."""

import errno
import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucky.dicom.identity import Identity, IdentityReader
from edge_scp.association.sink import Requestor, StoreStatus
from edge_scp.association.statuses import COMMENT_LENGTH, Status
from edge_scp.association.store_service import Refusal, StoreCommand, decide, objection
from edge_scp.metrics import ReceiverMetrics
from edge_scp.receive.store_handler import StoreHandler
from edge_scp.spool.disk import Disk
from tests.support.edge.spool_world import SpoolWorld, verified
from tests.support.waiting import until

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
CALLER = Requestor("a1", "CT", "BUCKY", "127.0.0.1", "00-" + "1" * 32 + "-2222222222222222-01")


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


def judged(request: StoreCommand, data_set: bytes) -> Identity | Refusal:
    """Decide on a whole data set."""
    reader = IdentityReader(request.transfer_syntax_uid)
    reader.feed(memoryview(data_set))
    return objection(request) or decide(request, reader)


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
    decision = judged(request_command, data_set)
    assert isinstance(decision, Refusal)
    assert decision.status is status
    assert 0 < len(decision.error_comment) <= COMMENT_LENGTH
    assert decision.error_comment.isascii()
    assert "Secret" not in decision.comment
    assert "../" not in decision.comment


def test_what_fits_is_kept_under_its_own_uids() -> None:
    """A data set that agrees with its command set is kept under the UIDs in it."""
    assert judged(command(), encoded()) == Identity(CT, "1.2.3.4", "1.2.3", "1.2.33")


def answers_of(receiver: StoreHandler, *stores: tuple[StoreCommand, bytes]) -> list[StoreStatus]:
    """Receive instances one after the other, each in two fragments; return what was answered."""
    answers: list[StoreStatus] = []
    for request, data_set in stores:
        arrival = receiver.begin(request, CALLER)
        half = memoryview(data_set)[: len(data_set) // 2]
        arrival.write(half)
        arrival.write(memoryview(data_set)[len(half) :])
        arrival.finish(answers.append)
    return answers


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SpoolWorld]:
    """A spool."""
    world = SpoolWorld(tmp_path)
    yield world
    world.close()


class BrokenDisk(Disk):
    """A disk that fails in one way when a file is created, written or synced."""

    def __init__(self, step: str, failure: BaseException) -> None:
        self.step, self.failure = step, failure

    def create(self, folder: Path) -> int:
        if self.step == "create":
            raise self.failure
        return super().create(folder)

    def write(self, descriptor: int, *pieces: bytes | memoryview) -> None:
        if self.step == "write":
            raise self.failure
        super().write(descriptor, *pieces)

    def sync_file_system(self, descriptor: int) -> None:
        if self.step == "sync":
            raise self.failure
        super().sync_file_system(descriptor)


@pytest.mark.parametrize(
    ("step", "failure", "status"),
    [
        ("create", OSError(errno.ENOSPC, "full"), Status.OUT_OF_RESOURCES),
        ("write", OSError(errno.ENOSPC, "full"), Status.OUT_OF_RESOURCES),
        ("write", OSError(errno.EIO, "broken"), Status.OUT_OF_RESOURCES),
        ("sync", OSError(errno.EIO, "broken"), Status.OUT_OF_RESOURCES),
        ("sync", OSError(errno.ENOSPC, "full"), Status.OUT_OF_RESOURCES),
        ("create", RuntimeError("Secret^Name"), Status.PROCESSING_FAILURE),
        ("write", MemoryError(), Status.PROCESSING_FAILURE),
    ],
)
async def test_no_failure_is_answered_as_success(
    tmp_path: Path, step: str, failure: BaseException, status: Status
) -> None:
    """Whatever goes wrong is answered with a failure status and a comment that gives nothing away."""
    world = SpoolWorld(tmp_path, disk=BrokenDisk(step, failure))
    with world.receiving(ReceiverMetrics()) as receiver:
        answers = answers_of(receiver, (command(), encoded()))
        await until(lambda: len(answers) == 1)
    assert answers[0].status is status
    assert 0 < len(answers[0].error_comment) <= COMMENT_LENGTH
    assert "Secret" not in answers[0].error_comment
    assert world.ready() == []
    assert world.counters.held_bytes == 0
    world.close()


async def test_success_means_one_spooled_instance_in_the_associations_trace(world: SpoolWorld) -> None:
    """A success answer stands for one durable file, and its event will belong to the association's trace."""
    with world.receiving(ReceiverMetrics()) as receiver:
        answers = answers_of(receiver, (command(), encoded()))
        assert answers == []
        await until(lambda: len(answers) == 1)
    assert answers == [StoreStatus(Status.SUCCESS)]
    world.spool.arrived(world.arrivals.read())
    entry = world.spool.take()
    assert entry is not None
    record = verified(world.spool.path(entry))
    assert record.traceparent.split("-")[1] == "1" * 32
    assert record.traceparent != CALLER.traceparent
    assert (record.calling_aet, record.called_aet, record.association_id) == ("CT", "BUCKY", "a1")


async def test_a_refused_instance_is_drained_without_touching_the_disk(world: SpoolWorld) -> None:
    """Once it is known that an instance is refused, what still comes of it is written nowhere."""
    with world.receiving(ReceiverMetrics()) as receiver:
        arrival = receiver.begin(command(affected_sop_class_uid=MR), CALLER)
        early = receiver.begin(command(affected_sop_instance_uid="9.9"), CALLER)
        early.write(memoryview(encoded()))
        assert world.counters.held_bytes == 0
        answers: list[StoreStatus] = []
        for each in (arrival, early):
            for _ in range(100):
                each.write(memoryview(bytes(100_000)))
            each.finish(answers.append)
        await until(lambda: len(answers) == 2)
    assert [answer.status for answer in answers] == [Status.SOP_CLASS_NOT_SUPPORTED, Status.DATA_SET_MISMATCH]
    assert world.ready() == []


async def test_an_abandoned_instance_leaves_nothing(world: SpoolWorld) -> None:
    """An association lost in the middle of an instance leaves no file and holds no room."""
    with world.receiving(ReceiverMetrics()) as receiver:
        arrival = receiver.begin(command(), CALLER)
        arrival.write(memoryview(encoded()))
        assert world.counters.held_bytes > len(encoded())
        arrival.abandon()
        arrival.abandon()
        receiver.begin(command(affected_sop_class_uid=MR), CALLER).abandon()
    assert world.ready() == []
    assert world.counters.held_bytes == 0


async def test_what_came_whole_is_kept_though_nobody_waits_for_the_answer(world: SpoolWorld) -> None:
    """An association lost while its instance is synced changes nothing: the instance is whole, and kept."""
    with world.receiving(ReceiverMetrics()) as receiver:
        answers: list[StoreStatus] = []
        arrival = receiver.begin(command(), CALLER)
        arrival.write(memoryview(encoded()))
        arrival.finish(answers.append)
        arrival.abandon()
        await until(lambda: len(answers) == 1)
    assert len(world.ready()) == 1


async def test_logs_hold_no_patient_value(world: SpoolWorld, capfd: pytest.CaptureFixture[str]) -> None:
    """Accepted or refused, an instance's log lines carry UIDs and outcomes, never what is in it."""
    logging.getLogger().handlers.clear()
    with world.receiving(ReceiverMetrics()) as receiver:
        answers = answers_of(
            receiver,
            (command(), encoded()),
            (command(), encoded(study="")),
            (command(affected_sop_instance_uid="../x"), encoded()),
        )
        await until(lambda: len(answers) == 3)
    out, err = capfd.readouterr()
    assert "instance.acknowledged" in out + err
    assert "instance.refused" in out + err
    assert "Secret" not in out + err
    assert "../" not in out + err
