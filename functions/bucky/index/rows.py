"""What goes into the index and what comes out of it: frozen data classes."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from bucky.events import Processing, ReceivedInstance
from bucky.routing.document import Routing


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


@dataclass(frozen=True, slots=True)
class Arrival:
    """A study, or a series of it, that is still arriving; `series_instance_uid` is empty for the study itself.

    `quiet_seconds` is the longest quiet it was declared stable for since its last instance, or 0.
    """

    study_instance_uid: str
    series_instance_uid: str
    last_instance_at: datetime
    expected_count: int | None
    instance_count: int
    revision: int
    quiet_seconds: float


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
    """One step of an instance, or the same step of several: from `at` to `until`, `times` times in all.

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
