"""Storage commitment, the messages: what is asked, and what is reported (PS3.4 Annex J). Pure."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from bucky.dicom.json_model import UNDECODABLE, quietly
from bucky.dicom.uids import checked_uid
from bucky.dimse.status import meaning
from bucky.errors import InvalidInstance, Permanent

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
REQUEST_COMMITMENT = 1
ALL_COMMITTED, SOME_FAILED = 1, 2
# Failure Reason (0008,1197), where it is not called what the status is (PS3.3 §C.14.1.1).
_FAILURES = {
    0x0112: "no such object instance",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


class InvalidReport(Permanent):
    """A report cannot be understood; `status` is what its sender is answered (PS3.7 §10.1.1.1.8)."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a node says of a transaction: which instances it commits to, and why not to others."""

    transaction_uid: str
    committed: tuple[str, ...]
    failed: dict[str, int | None]


def failure_in_words(reason: int | None) -> str:
    """Say why a destination does not commit to an instance."""
    if reason is None:
        return "the destination did not commit to keeping it, and gave no reason"
    named = _FAILURES.get(reason) or meaning(reason)
    return f"the destination did not commit to keeping it: 0x{reason:04X}, {named}"


def action_information(transaction_uid: str, references: Sequence[tuple[str, str]]) -> bytes:
    """Return the data set of an N-ACTION about these (SOP class and instance), in implicit VR little endian."""
    asked = Dataset()
    asked.TransactionUID = transaction_uid
    asked.ReferencedSOPSequence = []
    for reference in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
        asked.ReferencedSOPSequence.append(item)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_dataset(buffer, asked)
    return bytes(buffer.getvalue())


def read_report(event_type: int, data_set: bytes, transfer_syntax_uid: str) -> CommitmentReport:
    """Read the data set of an N-EVENT-REPORT; raise `InvalidReport` when it is none."""
    if event_type not in {ALL_COMMITTED, SOME_FAILED}:
        raise InvalidReport(f"there is no event of type {event_type} (PS3.4 Table J.3-2)", 0x0113)
    try:
        with quietly():
            told = read_dataset(io.BytesIO(data_set), transfer_syntax_uid == IMPLICIT, is_little_endian=True)
            return _report(told)
    except InvalidInstance as error:
        raise InvalidReport(str(error), 0x0115) from None
    except UNDECODABLE as error:
        raise InvalidReport("the data set of the report cannot be read", 0x0115) from error


def _report(told: Dataset) -> CommitmentReport:
    transaction = checked_uid(str(told.get("TransactionUID", "")), "TransactionUID")
    failed: dict[str, int | None] = {}
    for item in told.get("FailedSOPSequence") or ():
        reason = item.get("FailureReason")
        failed[_instance(item)] = None if reason is None else int(reason)
    committed = dict.fromkeys(_instance(item) for item in told.get("ReferencedSOPSequence") or ())
    return CommitmentReport(transaction, tuple(uid for uid in committed if uid not in failed), failed)


def _instance(item: Dataset) -> str:
    return checked_uid(str(item.get("ReferencedSOPInstanceUID", "")), "ReferencedSOPInstanceUID")
