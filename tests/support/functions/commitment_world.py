"""A DICOM node that is asked for storage commitments, and an edge that takes what it reports."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_messages import N_ACTION_RSP
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from bucky.broker.connection import MemoryPublisher
from bucky.cloudevents import CloudEvent
from bucky.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from bucky.forwarding import Places, Secrets
from bucky.index import Index
from bucky.serve.contract import BatchResult
from bucky.serve.handlers import load_handler, make_context
from commit_deliveries.handler import handle_batch
from edge_scp.receive.commitment_reports import CommitmentReports
from local_stack.destination import Destination

CONTEXT = make_context(load_handler("commit_deliveries.handler"))
NO_SUCH_OBJECT = 0x0112


def commit(events: Sequence[CloudEvent], index: Index, secrets: Path = Path("/nonexistent")) -> BatchResult:
    """Run the function on a batch."""
    return handle_batch(events, CONTEXT, index, Secrets(secrets), Places())


@dataclass
class Asked:
    """One N-ACTION: its transaction and the instances it was about."""

    transaction_uid: str
    instances: list[str]


@dataclass
class Manners:
    """How a node behaves: what it answers to an N-ACTION, and whether it reports on the same association."""

    answer: int = 0x0000
    reports_at_once: bool = False
    repeats: int = 1
    lost: set[str] = field(default_factory=set)


class CommittingNode(Destination):
    """A storage SCP that commits to what it holds, and says so when it is told to."""

    def __init__(self, directory: Path, *, commits: bool = True, **options: Any) -> None:
        super().__init__(directory, **options)
        self.manners = Manners()
        self.asked: list[Asked] = []
        self.confirmed: list[int] = []
        self._to_report: dict[Any, Asked] = {}
        if commits:
            self._ae.add_supported_context(StorageCommitmentPushModel)

    def handlers(self) -> list[evt.EventHandlerType]:
        """Return what is called when something happens."""
        return [
            *super().handlers(),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_DIMSE_SENT, self._answers),
            (evt.EVT_PDU_SENT, self._answered),
        ]

    def holds(self, uid: str) -> bool:
        """Say whether it has an instance, and admits it."""
        return (self.directory / uid).is_dir() and uid not in self.manners.lost

    def told(self, asked: Asked) -> Dataset:
        """Return what it says of a transaction (PS3.4 Table J.3-2)."""
        return report_of(
            asked.transaction_uid,
            [uid for uid in asked.instances if self.holds(uid)],
            [uid for uid in asked.instances if not self.holds(uid)],
        )

    def report(self, asked: Asked, port: int, *, calling_aet: str | None = None, called_aet: str = "BUCKY") -> int:
        """Report on a transaction over an association of its own; return the status it is answered."""
        return send_report(self.told(asked), port, calling_aet=calling_aet or self.aet, called_aet=called_aet)

    def _action(self, event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        instances = [str(item.ReferencedSOPInstanceUID) for item in information.ReferencedSOPSequence]
        self.asked.append(Asked(str(information.TransactionUID), instances))
        return self.manners.answer, None

    def _answers(self, event: evt.Event) -> None:
        if isinstance(event.message, N_ACTION_RSP) and self.manners.reports_at_once:
            self._to_report[event.assoc] = self.asked[-1]

    def _answered(self, event: evt.Event) -> None:
        """Report once the answer has left: begun before, the report would come between the answer's fragments."""
        asked = self._to_report.pop(event.assoc, None) if isinstance(event.pdu, P_DATA_TF) else None
        if asked is not None:
            threading.Thread(target=self._report_here, args=(event.assoc, asked), daemon=True).start()

    def _report_here(self, association: Any, asked: Asked) -> None:
        told = self.told(asked)
        for _ in range(self.manners.repeats):
            status, _ = association.send_n_event_report(told, event_type(told), PUSH_MODEL, PUSH_MODEL_INSTANCE)
            self.confirmed.append(int(status.Status))


def report_of(transaction_uid: str, committed: Sequence[str], failed: Sequence[str] = ()) -> Dataset:
    """Return the data set of a report."""
    told = Dataset()
    told.TransactionUID = transaction_uid
    told.ReferencedSOPSequence = [_reference(uid) for uid in committed]
    if failed:
        told.FailedSOPSequence = [_reference(uid) for uid in failed]
        for item in told.FailedSOPSequence:
            item.FailureReason = NO_SUCH_OBJECT
    return told


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def event_type(told: Dataset) -> int:
    """Return the event's type: 1 when everything is committed to."""
    return 2 if "FailedSOPSequence" in told else 1


def send_report(
    told: Dataset, port: int, *, calling_aet: str = "DEMO", called_aet: str = "BUCKY", kind: int | None = None
) -> int:
    """Report over an association that proposes to be the SCP; return the status of the answer."""
    ae = AE(ae_title=calling_aet)
    ae.add_requested_context(StorageCommitmentPushModel)
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    association = ae.associate("127.0.0.1", port, ae_title=called_aet, ext_neg=[role])
    assert association.is_established
    try:
        status, _ = association.send_n_event_report(
            told, event_type(told) if kind is None else kind, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
    finally:
        association.release()
    return cast(int, status.Status)


class MemoryLink(MemoryPublisher):
    """The edge's line to a broker that is a list."""

    async def prepare(self) -> None:
        """Connect to nothing."""


def reports_into(link: MemoryLink) -> CommitmentReports:
    """Return what takes an edge's reports."""
    return CommitmentReports(link)
