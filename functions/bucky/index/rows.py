"""What goes into the index and what comes out of it: frozen data classes."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from bucky.completeness import Arrival
from bucky.events import (
    DeliveryRequested,
    Priority,
    Processing,
    ProcessingRequested,
    ReceivedInstance,
    Unit,
    utc_now,
)
from bucky.routing import Routing


@dataclass(frozen=True, slots=True)
class IndexedInstance:
    """An instance to index: what the edge said of it, and its header as a DICOM JSON model object.

    `header_error` says why the header could not be read in full; the instance is indexed all the same.
    """

    received: ReceivedInstance
    header: dict[str, Any]
    header_error: str | None = None
    trace_id: str | None = None
    stored_at: datetime | None = None


class UpsertOutcome(StrEnum):
    """What the index made of an instance."""

    NEW = "new"
    KNOWN = "known"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """The outcome for one instance; on a conflict, the digest that holds the SOP Instance UID."""

    sha256: str
    outcome: UpsertOutcome
    existing_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """A search for studies; `patient_name` takes `*` and `?` (PS3.4 §C.2.2.2.4), dates are YYYYMMDD."""

    patient_id: str | None = None
    patient_name: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    modality: str | None = None
    study_date_from: str | None = None
    study_date_to: str | None = None
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class PatientRow:
    """A patient as instances of a study name one."""

    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_name: str | None
    patient_birth_date: str | None
    patient_sex: str | None


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study, the counts of what is current in it, of conflicts, decided ones too, and of what came damaged.

    All is what its current instances say, what differs between them what the first of them says. A `patient_count`
    over 1 says that they have several Patient IDs, `several_names` that they give one patient several names: `patients`
    has them all.
    """

    study_instance_uid: str
    patient_id: str | None
    issuer_of_patient_id: str | None
    patient_name: str | None
    patient_birth_date: str | None
    patient_sex: str | None
    study_date: str | None
    study_time: str | None
    accession_number: str | None
    study_id: str | None
    study_description: str | None
    referring_physician_name: str | None
    first_received_at: datetime
    last_instance_at: datetime
    modalities: tuple[str, ...]
    series_count: int
    instance_count: int
    conflict_count: int
    patient_count: int = 0
    patients: tuple[PatientRow, ...] = ()
    several_names: bool = False
    damaged_count: int = 0


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A series."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    series_number: int | None
    series_description: str | None
    series_date: str | None
    series_time: str | None
    body_part_examined: str | None
    protocol_name: str | None
    station_name: str | None
    instance_count: int
    conflict_count: int


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance; `header` (the DICOM JSON model) is there when one instance was asked for, not in lists.

    `conflict`: other bytes are current under its SOP Instance UID. `decision`: the number of the decision that says so,
    none while the conflict is open. `damaged`: its data set is not whole, as `header_error` says.
    """

    sha256: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    bucket: str
    key: str
    calling_aet: str
    called_aet: str
    source_address: str
    association_id: str
    received_at: datetime
    indexed_at: datetime
    instance_number: int | None
    rows: int | None
    columns: int | None
    number_of_frames: int | None
    conflict: bool
    header_error: str | None
    trace_id: str | None
    listener: str = ""
    stored_at: datetime | None = None
    header: dict[str, Any] | None = None
    processed: tuple[Processing, ...] = ()
    decision: int | None = None
    examined_version: int | None = None
    damaged: bool = False

    def received(self) -> ReceivedInstance:
        """Return the instance as events carry it."""
        return ReceivedInstance(
            **{name: getattr(self, name) for name in ReceivedInstance.model_fields},
        )


@dataclass(frozen=True, slots=True)
class Routed:
    """What the rules of a version made of an instance: how many destinations, and whether any rule matched at all."""

    sha256: str
    rule_version: int
    destinations: int
    matched: bool = True


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """What the index has of an instance's object."""

    study_instance_uid: str
    sha256: str
    key: str
    size: int
    indexed_at: datetime


class DeliveryState(StrEnum):
    """Where a delivery stands; see `deliveries.COMES_FROM` for what may follow what."""

    REQUESTED = "requested"
    RETRYING = "retrying"
    UNCOMMITTED = "uncommitted"
    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"
    DISMISSED = "dismissed"
    """Somebody said of a dead letter that it is not to be sent any more, and why."""


class AttemptOutcome(StrEnum):
    """How an attempt ended: the destination took it, it will be tried again, or it was refused for good.

    `UNCOMMITTED`: the destination took it, and is to be asked to commit to keeping it.
    """

    DELIVERED = "delivered"
    UNCOMMITTED = "uncommitted"
    RETRYING = "retrying"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One attempt at one delivery; `reason` says why it did not work, `detail` what the destination answered.

    `tried` is false when nobody tried to send it, as outside the destination's hours: no attempt. One that the
    destination did not answer, or refused to be connected to for, is an attempt.
    `sent_sha256` is of the data set as a rule had changed it, where one had, before any conversion; `crosswalks`
    names the tables that it looked values up in. `commitment_uid` is the transaction of what is uncommitted, and
    `due_at` when it is to have been asked for. `unanswered_sha256` is of the data set as it was sent whole, where no
    answer came.
    """

    delivery_id: str
    outcome: AttemptOutcome
    reason: str = ""
    detail: str = ""
    at: datetime = field(default_factory=utc_now)
    tried: bool = True
    sent_sha256: str | None = None
    crosswalks: str = ""
    commitment_uid: str | None = None
    due_at: datetime | None = None
    unanswered_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A delivery; from `received_at` to `completed_at` is the time the whole way took.

    The destination took it `sends` times. `commitment` says in words how it stands with its commitment.
    What a function is given has a `unit`; of a series or study the row names the instance with the least digest.
    """

    delivery_id: str
    sha256: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    destination: str
    rule: str
    rule_version: int
    state: DeliveryState
    attempts: int
    reason: str
    detail: str
    received_at: datetime
    requested_at: datetime
    redriven_at: datetime | None
    updated_at: datetime
    completed_at: datetime | None
    trace_id: str | None
    priority: Priority = "routine"
    morph_sha256: str | None = None
    sent_sha256: str | None = None
    crosswalks: str = ""
    waiting_since: datetime | None = None
    due_at: datetime | None = None
    sends: int = 0
    commitment: str = ""
    commitment_uid: str | None = None
    commitment_asked_at: datetime | None = None
    commitment_asks: int = 0
    unit: Unit | None = None
    unit_sha256: str | None = None
    unit_instances: int | None = None
    unanswered_sha256: str | None = None

    def request(self, instance: ReceivedInstance) -> DeliveryRequested:
        """Return the request that this delivery began with."""
        same = (field for field in DeliveryRequested.model_fields if field != "instance")
        said = {field: getattr(self, field) for field in same}
        if self.unit_sha256 is None:
            return DeliveryRequested(**said, instance=instance)
        given = {field: getattr(self, field) for field in ("unit", "unit_sha256", "unit_instances")}
        return ProcessingRequested(**said, instance=instance, **given)


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance that a destination is asked to commit to."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a report on a transaction changed: the deliveries as they are now, by what became of them."""

    delivered: tuple[DeliveryRow, ...] = ()
    to_send_again: tuple[DeliveryRow, ...] = ()
    given_up: tuple[DeliveryRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is to be declared stable as it was seen, for which quiet time, and why.

    `is_longest`: nobody waits for a longer quiet. `is_default`: rules that name no quiet time wait for this one.
    """

    arrival: Arrival
    quiet_seconds: float
    reason: str
    is_longest: bool
    is_default: bool


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One step of an instance, or the same step of several: from `at` to `until`, so many `times` in all.

    `step` is received, stored, indexed, routed, requested, retrying, uncommitted, failed, dead_letter, dismissed,
    redriven, delivered, series_stable or study_stable; accepted, rejected or reopened where bytes were decided about.
    UIDs and digest are there when they are the same for all it stands for.
    """

    step: str
    at: datetime
    until: datetime
    instances: int
    times: int
    series_instance_uid: str | None
    sop_instance_uid: str | None
    sha256: str | None
    destination: str | None
    rule: str | None
    rule_version: int | None
    revision: int | None
    detail: str | None
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class DeliveryCount:
    """How many deliveries to one destination are in one state."""

    destination: str
    state: DeliveryState
    count: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """Deliveries to one destination in one state other than delivered, and since when the first of them waits."""

    destination: str
    state: DeliveryState
    count: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Noticed:
    """How many of something, and when the first of them came."""

    count: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much the index holds; `instances` are the current ones, `conflicts` all others, decided or not.

    `several_patients` are the studies whose instances have several Patient IDs.
    """

    studies: int
    series: int
    instances: int
    conflicts: int
    several_patients: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class RoutingVersion:
    """One version of the routing; version 0 is the empty one nobody wrote. `note` says how it came about."""

    version: int
    document: Routing
    author: str
    created_at: datetime | None
    note: str = ""
