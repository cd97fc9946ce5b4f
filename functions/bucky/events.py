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
    dicom.series.stable                       nothing came for the series for so long
    dicom.study.stable                        nothing came for the study for so long
    deadletter.<function>                     a function could not process an event

An urgent event has the token `urgent` behind all that, in a queue of its own.

Ids are deterministic, so publishing the same fact twice is one message (`Nats-Msg-Id`).
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bucky.errors import Permanent

MEDIA_TYPE = "application/cloudevents+json"
BATCH_MEDIA_TYPE = "application/cloudevents-batch+json"

URGENT: Literal["urgent"] = "urgent"
Priority = Literal["urgent", "routine"]

Sha256 = Field(pattern=r"^[0-9a-f]{64}$")
Uid = Field(pattern=r"^[0-9.]{1,64}$")
DestinationName = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")


def utc_now() -> datetime:
    """Return the time now, with its zone."""
    return datetime.now(UTC)


class Payload(BaseModel):
    """What happened; subclasses say it in the past tense."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    TYPE: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def event_id(self) -> str:
        """Return the id that makes publishing twice one message."""
        raise NotImplementedError

    def partition_key(self) -> str | None:
        """Return a token of the NATS subject, where events of one type go separate ways."""
        return None

    def urgency(self) -> str | None:
        """Return `urgent` for what must not wait behind the rest of its kind."""
        return None


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
        """Return the digest: an instance is stored, and indexed, once."""
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
        """Return the delivery's id."""
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
        """Return `urgent` when the rule said so."""
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
        """Return the transaction: it is asked for once."""
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
        told = (self.transaction_uid, *self.committed, *(f"{one.sop_instance_uid}={one.reason}" for one in self.failed))
        parts = (*told, self.calling_aet, self.called_aet, self.source_address)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


Unit = Literal["instance", "series", "study"]


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
        """Return the series' UID."""
        return self.series_instance_uid


class DeadLettered(Payload):
    """A function could not process an event; `event` is that event, whole, `headers` its NATS headers."""

    TYPE: ClassVar[str] = "deadletter"
    function: str
    reason: str
    attempts: int
    subject: str
    stream_sequence: int
    event: dict[str, Any]
    headers: dict[str, str] = {}

    def event_id(self) -> str:
        """Return an id made of the function and the message it could not process."""
        return f"{self.function}:{self.subject}:{self.stream_sequence}"

    def partition_key(self) -> str | None:
        """Return the function's name."""
        return self.function


def delivery_id(sha256: str, destination: str, rule_version: int, morph_sha256: str | None = None) -> str:
    """Return the deterministic id of a delivery (SHA-256, hexadecimal); other changes make it another delivery."""
    parts = [sha256, destination, str(rule_version), *([morph_sha256] if morph_sha256 else [])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def unit_sha256(digests: Iterable[str]) -> str:
    """Return the digest of a set of instances: that of the only one, or of all their digests in order."""
    ordered = sorted(set(digests))
    return ordered[0] if len(ordered) == 1 else hashlib.sha256("\n".join(ordered).encode()).hexdigest()


PAYLOADS: Mapping[str, type[Payload]] = {
    payload.TYPE: payload
    for payload in (
        InstanceStored,
        InstanceIndexed,
        InstanceConflicted,
        DeliveryRequested,
        DeliveryCompleted,
        DeliveryFailed,
        CommitmentRequested,
        CommitmentReported,
        ProcessingRequested,
        ProcessingCompleted,
        ProcessingFailed,
        SeriesStable,
        StudyStable,
        DeadLettered,
    )
}


class CloudEvent(BaseModel):
    """A CloudEvents 1.0 envelope; unknown extension attributes are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    specversion: str = Field(default="1.0", pattern=r"^1\.0$")
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    subject: str | None = None
    time: AwareDatetime | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    partitionkey: str | None = None
    traceparent: str | None = None
    # Extensions of ours; other people's events may use the names for something else.
    priority: Any = None
    repetition: Any = None
    data: Any = None

    @classmethod
    def of(cls, payload: Payload, *, source: str, traceparent: str | None = None) -> Self:
        """Wrap a payload in its envelope."""
        return cls(
            id=payload.event_id(),
            source=source,
            type=payload.TYPE,
            time=utc_now(),
            datacontenttype="application/json",
            dataschema=f"urn:bucky:event:{payload.TYPE}:{payload.VERSION}",
            partitionkey=payload.partition_key(),
            traceparent=traceparent,
            priority=payload.urgency(),
            data=payload.model_dump(mode="json"),
        )

    def payload(self) -> Payload:
        """Return the typed payload, or raise `Permanent` when the type or its data is not ours."""
        payload_type = PAYLOADS.get(self.type)
        if payload_type is None:
            raise Permanent(f"no event of type {self.type!r} is known here")
        try:
            return payload_type.model_validate(self.data)
        except ValueError as error:
            raise Permanent(f"the data of {self.type} event {self.id} does not match its schema") from error

    @property
    def nats_subject(self) -> str:
        """Return the NATS subject: the type, the partition key where there is one, `urgent` where it is."""
        subject = f"{self.type}.{self.partitionkey}" if self.partitionkey else self.type
        return f"{subject}.{URGENT}" if self.priority == URGENT else subject

    @property
    def nats_msg_id(self) -> str:
        """Return the `Nats-Msg-Id`: ids are unique per type, the header is per stream.

        `repetition` tells an event that is meant to be heard once more from the one before it.
        """
        name = f"{self.nats_subject}/{self.id}"
        return f"{name}/{self.repetition}" if isinstance(self.repetition, str) else name

    def once_more(self, repetition: str) -> Self:
        """Return the event as it is published again on purpose; each repetition is one message."""
        return self.model_copy(update={"repetition": repetition})

    def to_json(self) -> bytes:
        """Return the structured-mode JSON (CloudEvents JSON format §2)."""
        return self.model_dump_json(exclude_none=True).encode()
