"""Every event Bucky publishes: frozen, versioned, past tense, with its NATS subject.

An event carries identifiers, a digest, a size, a transfer syntax, AE titles and an object
reference. It never carries pixels or patient attributes.

On the wire an event is a CloudEvents 1.0 JSON object whose `data` is one of the payloads below:

    dicom.instance.stored                     an edge, or a function, stored an instance in the object store
    dicom.instance.indexed                    the index has it
    dicom.instance.conflicted                 same SOP Instance UID, other bytes: kept, not routed
    dicom.delivery.requested.<destination>    a rule decided that it goes there
    dicom.delivery.completed.<destination>    the destination itself answered success
    dicom.delivery.failed.<destination>       it will not be tried again by itself
    dicom.commitment.requested.<destination>  the destination is to be asked to commit to what it took
    dicom.commitment.reported                 a DICOM node told the edge what it commits to
    dicom.processing.requested.<function>     a rule decided that a function gets it, or its series or study
    dicom.processing.completed.<function>     the function answered, and its results are stored
    dicom.processing.failed.<function>        it will not be tried again by itself
    dicom.series.stable                       nothing came for the series for its quiet time
    dicom.study.stable                        nothing came for the study for its quiet time
    deadletter.<function>                     a function could not process an event

An urgent event has the token `urgent` behind all that, in a queue of its own.

Ids are deterministic, so publishing the same fact twice is one message (`Nats-Msg-Id`).
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bucky.cloudevents import URGENT, CloudEvent, DeadLettered, Payload, Priority
from bucky.errors import Permanent
from bucky.text.identifiers import DestinationName, Sha256, Uid, Unit


class Instance(Payload):
    """One stored SOP instance; `size` is the object's, in bytes; `sha256` is of its data set bytes."""

    study_instance_uid: str = Uid
    series_instance_uid: str = Uid
    sop_instance_uid: str = Uid
    sop_class_uid: str = Uid
    transfer_syntax_uid: str = Uid
    sha256: str = Sha256
    size: int = Field(gt=0)
    bucket: str
    key: str

    def event_id(self) -> str:
        return self.sha256


class Processing(BaseModel):
    """A function that an instance came out of, and the decision that had called it."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    function: str = DestinationName
    rule: str
    rule_version: int
    delivery_id: str = Sha256


class ReceivedInstance(Instance):
    """An instance with the association that brought it; `listener` is empty where the edge did not tell.

    What a function made came by no association: `association_id` is then its delivery's id, and `processed` names
    the functions that it, and what it was made of, came out of, the last one last.
    """

    calling_aet: str
    called_aet: str
    source_address: str
    association_id: str
    received_at: AwareDatetime
    listener: str = ""
    processed: tuple[Processing, ...] = ()


class InstanceStored(ReceivedInstance):
    """The instance is in the object store."""

    TYPE: ClassVar[str] = "dicom.instance.stored"


class InstanceIndexed(ReceivedInstance):
    """The index has the instance."""

    TYPE: ClassVar[str] = "dicom.instance.indexed"


class InstanceConflicted(ReceivedInstance):
    """Another instance with the same SOP Instance UID came first; this one is kept, and waits for a decision."""

    TYPE: ClassVar[str] = "dicom.instance.conflicted"
    existing_sha256: str = Sha256


class Delivery(Payload):
    """One instance on its way to one destination, and the rule set version that sent it."""

    delivery_id: str = Sha256
    destination: str = DestinationName
    rule: str
    rule_version: int
    instance: ReceivedInstance

    def event_id(self) -> str:
        return self.delivery_id

    def partition_key(self) -> str | None:
        """Return the destination: a stuck one must not delay another."""
        return self.destination


class DeliveryRequested(Delivery):
    """A rule decided that the instance goes to the destination, how soon, and with which changes, if any."""

    TYPE: ClassVar[str] = "dicom.delivery.requested"
    priority: Priority = "routine"
    morph_sha256: str | None = None

    def urgency(self) -> str | None:
        return URGENT if self.priority == URGENT else None


class DeliveryCompleted(Delivery):
    """The destination itself answered success, or a warning named in `detail`, for this instance.

    `sent_sha256` is of the data set as the rule had changed it, where it had, before any conversion.
    """

    TYPE: ClassVar[str] = "dicom.delivery.completed"
    completed_at: AwareDatetime
    detail: str = ""
    sent_sha256: str | None = None


class DeliveryFailed(Delivery):
    """The delivery will not be tried again by itself."""

    TYPE: ClassVar[str] = "dicom.delivery.failed"
    failed_at: AwareDatetime
    reason: str


class CommitmentRequested(Payload):
    """A destination took instances; it is to be asked, in this transaction, to commit to keeping them."""

    TYPE: ClassVar[str] = "dicom.commitment.requested"
    transaction_uid: str = Uid
    destination: str = DestinationName

    def event_id(self) -> str:
        return self.transaction_uid

    def partition_key(self) -> str | None:
        """Return the destination: one that is away must not delay another's."""
        return self.destination


class NotCommitted(BaseModel):
    """An instance that a node does not commit to; `reason` is its Failure Reason (0008,1197), if it gave one."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    sop_instance_uid: str = Uid
    reason: int | None


class CommitmentReported(Payload):
    """A node told the edge, over an association of its own, which instances it commits to (PS3.4 §J.3.3)."""

    TYPE: ClassVar[str] = "dicom.commitment.reported"
    transaction_uid: str = Uid
    committed: tuple[Annotated[str, Uid], ...]
    failed: tuple[NotCommitted, ...]
    calling_aet: str
    called_aet: str
    source_address: str
    association_id: str

    def event_id(self) -> str:
        """Return a hash of what was told, and by whom: told twice, it is one event."""
        failed = (f"{one.sop_instance_uid}={one.reason}" for one in self.failed)
        parts = (self.transaction_uid, *self.committed, *failed, self.calling_aet, self.called_aet, self.source_address)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class ProcessingRequested(DeliveryRequested):
    """A rule decided that a function gets an instance, or the instances of a series or study, in one call.

    `destination` is the function's name, `instance` the one with the least digest. `unit_sha256` is of all their
    digests; which they are is in the index. `morph_sha256` is of the parameters that the rule gives, if any.
    """

    TYPE: ClassVar[str] = "dicom.processing.requested"
    unit: Unit
    unit_sha256: str = Sha256
    unit_instances: int = Field(gt=0)


class ProcessingCompleted(DeliveryCompleted):
    """The function answered, and all that it answered is stored."""

    TYPE: ClassVar[str] = "dicom.processing.completed"
    results: int


class ProcessingFailed(DeliveryFailed):
    """The function will not be called again by itself for this."""

    TYPE: ClassVar[str] = "dicom.processing.failed"


class StableSeries(BaseModel):
    """A series that changed since the study was stable last: its instances now, and how many of them are new."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    series_instance_uid: str = Uid
    modality: str | None
    instance_count: int
    added: int


class Stable(Payload):
    """Nothing came for `quiet_seconds`; `reason` says on what evidence.

    A later instance begins a new revision, which is told of in its turn; `added` are the instances since the
    revision before. Each quiet time that a rule asks for has an event of its own; `is_default` marks the one for
    rules that ask for none.
    """

    study_instance_uid: str = Uid
    revision: int
    quiet_seconds: float
    is_default: bool
    stable_at: AwareDatetime
    last_instance_at: AwareDatetime
    reason: str
    instance_count: int
    added: int

    def event_id(self) -> str:
        """Return a hash of what is stable, in which revision, for which quiet and when that was declared."""
        parts = (self.study_instance_uid, self.series_uid(), self.revision, self.quiet_seconds, self.stable_at)
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

    def series_uid(self) -> str:
        """Return the series' UID, empty for a study."""
        return ""

    def is_for(self, quiet_seconds: float | None) -> bool:
        """Return whether this is what a rule with that quiet time waits for."""
        return self.is_default if quiet_seconds is None else self.quiet_seconds == quiet_seconds


class StudyStable(Stable):
    """The study is stable; `changed_series` (at most 500) changed since the revision before."""

    TYPE: ClassVar[str] = "dicom.study.stable"
    modalities: tuple[str, ...]
    series_count: int
    quarantined_count: int
    changed_series: tuple[StableSeries, ...]


class SeriesStable(Stable):
    """One series of the study is stable."""

    TYPE: ClassVar[str] = "dicom.series.stable"
    series_instance_uid: str = Uid
    modality: str | None

    def series_uid(self) -> str:
        return self.series_instance_uid


_OF_INSTANCES = (InstanceStored, InstanceIndexed, InstanceConflicted)
_OF_DELIVERIES = (DeliveryRequested, DeliveryCompleted, DeliveryFailed)
_OF_PROCESSING = (ProcessingRequested, ProcessingCompleted, ProcessingFailed)
_OF_COMMITMENTS = (CommitmentRequested, CommitmentReported)
_OF_STUDIES = (SeriesStable, StudyStable)

PAYLOADS: Mapping[str, type[Payload]] = {
    payload.TYPE: payload
    for payload in (*_OF_INSTANCES, *_OF_DELIVERIES, *_OF_PROCESSING, *_OF_COMMITMENTS, *_OF_STUDIES, DeadLettered)
}


def payload_of(event: CloudEvent) -> Payload:
    """Return an event's typed payload, or raise `Permanent` when the type or its data is not ours."""
    payload_type = PAYLOADS.get(event.type)
    if payload_type is None:
        raise Permanent(f"no event of type {event.type!r} is known here")
    try:
        return payload_type.model_validate(event.data)
    except ValueError as error:
        raise Permanent(f"the data of {event.type} event {event.id} does not match its schema") from error
