"""What the index tells of deliveries, and is told of them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bucky.cloudevents import Priority, utc_now
from bucky.events import DeliveryRequested, ProcessingRequested, ReceivedInstance
from bucky.text.identifiers import Unit


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
