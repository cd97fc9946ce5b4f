"""What is sent to a destination of any kind, and how it ended: one result for each instance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from bucky.errors import BuckyError, Retriable


class Outcome(StrEnum):
    """How sending one instance ended."""

    STORED = "stored"
    """The destination answered success: it has the instance."""
    WARNED = "stored_with_warning"
    """The destination has the instance, and says that something about it is not as sent."""
    REFUSED = "refused"
    """The destination will not take this instance, however often it is sent."""
    UNAVAILABLE = "unavailable"
    """The destination did not take it now; sending again can help."""

    @property
    def arrived(self) -> bool:
        """Whether the destination has the instance."""
        return self in {Outcome.STORED, Outcome.WARNED}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One instance to send; `content` opens a stream that stands at the data set's first byte.

    `content` is called when the instance's turn comes, and may raise `Permanent` or `Retriable`. `conversions`
    opens the same instance in other transfer syntaxes, by their UIDs, the best first, and may raise the same.
    `sha256` is of the data set as it was received. What only paths are made of may be left out.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: Callable[[], BinaryIO]
    conversions: Mapping[str, Callable[[], BinaryIO]] = field(default_factory=dict)
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class StoreResult:
    """How sending one instance ended; `reason` is ours and never holds the destination's words.

    `answer` is what the destination answered, as a code of its protocol (`0xA700`, `HTTP 503`, `AccessDenied`), and
    empty when it did not. `status` is that as a number where it is a DIMSE status (PS3.7 Annex C). `comment` is
    the destination's own text, which may name a patient: show it to who may see patients, never log it.
    `transfer_syntax_uid` is set when the instance went in another transfer syntax than its own. `retry_after` and
    `seconds` are in seconds.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    comment: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    answer: str = ""
    transfer_syntax_uid: str = ""


def not_sent(error: BuckyError) -> StoreResult:
    """Return the result for an instance that an error kept from being sent."""
    if isinstance(error, Retriable):
        return StoreResult(Outcome.UNAVAILABLE, str(error), retry_after=error.retry_after)
    return StoreResult(Outcome.REFUSED, str(error))
