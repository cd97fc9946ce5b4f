"""What is sent to a destination of any kind, and how it ended: one result for each instance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from bucky.errors import AnswerLost, BuckyError, Retriable


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


Opener = Callable[[], BinaryIO]
"""Opens a stream that stands at a data set's first byte; may raise `Permanent` or `Retriable`."""


def _at_once(fetch: Opener) -> Opener:
    return fetch


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One instance to send; `opened` opens it when its turn comes.

    `content` is its data set, `conversions` the same in other transfer syntaxes, by their UIDs, the best first.
    What goes out is read `through` what keeps to the destination's pace. `sha256` is of the data set as it was
    received. What only paths are made of may be left out. `corrects` are the digests of earlier data sets of this
    instance, in whose place this one was accepted: where the destination has one of those, this one takes its place.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: Opener
    conversions: Mapping[str, Opener] = field(default_factory=dict)
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sha256: str = ""
    through: Callable[[Opener], Opener] = _at_once
    corrects: frozenset[str] = frozenset()

    def opened(self, transfer_syntax_uid: str = "") -> BinaryIO:
        """Open what goes out: the data set, or its conversion to another transfer syntax."""
        return self.through(self.conversions.get(transfer_syntax_uid, self.content))()


@dataclass(frozen=True, slots=True)
class StoreResult:
    """How sending one instance ended; `reason` is ours and never holds the destination's words.

    `answer` is what the destination answered, as a code of its protocol (`0xA700`, `HTTP 503`, `AccessDenied`), and
    empty when it did not. `status` is that as a number where it is a DIMSE status (PS3.7 Annex C). `comment` is
    the destination's own text, which may name a patient: show it to who may see patients, never log it.
    `transfer_syntax_uid` is set when the instance went in another transfer syntax than its own. `retry_after` and
    `seconds` are in seconds. `unanswered`: it was sent whole, and no answer came. `exists`: the destination says that
    it has an instance by that UID, and nobody could ask it whether that is this one. `begun`: it was tried to send it,
    if only by connecting.
    """

    outcome: Outcome
    reason: str = ""
    status: int | None = None
    comment: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    answer: str = ""
    transfer_syntax_uid: str = ""
    unanswered: bool = False
    exists: bool = False
    begun: bool = True


def not_sent(error: BuckyError) -> StoreResult:
    """Return the result for an instance that an error kept from being sent."""
    if isinstance(error, Retriable):
        lost = isinstance(error, AnswerLost)
        return StoreResult(Outcome.UNAVAILABLE, str(error), retry_after=error.retry_after, unanswered=lost)
    return StoreResult(Outcome.REFUSED, str(error))
