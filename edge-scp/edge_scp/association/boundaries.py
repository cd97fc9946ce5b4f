"""What the service provider stands between: the transport below it, and the service user above (PS3.8 §6)."""

from enum import IntEnum
from typing import NamedTuple, Protocol

from edge_scp.association.store_service import Refusal


class Transport(Protocol):
    """The connection below."""

    @property
    def congested(self) -> bool:
        """Tell whether the peer has yet to read much of what was sent."""

    def send(self, data: bytes) -> None:
        """Send now, or as soon as the peer reads."""

    def read_on(self) -> None:
        """Pass on what was held back, and receive again."""

    def close(self) -> None:
        """Close once all is sent."""

    def abort(self) -> None:
        """Close at once."""


class ServiceUser(Protocol):
    """Who is told what the peer does."""

    @property
    def busy(self) -> bool:
        """Tell whether the peer's next message must wait."""

    def associate_indicated(self, request: bytes) -> None:
        """Answer an A-ASSOCIATE-RQ, given without its header, by `accept`, `reject` or `InvalidPdu`."""

    def data_indicated(self, context_id: int, control: int, piece: memoryview, ends: bool) -> None:
        """Take a piece of a presentation data value; of a data set that goes to a taker, its end only."""

    def release_indicated(self) -> None:
        """The peer wants to release: answer by `answer_release`, now or when the work in hand is done."""

    def release_confirmed(self) -> None:
        """The peer agrees to our release."""

    def aborted(self, reason: str) -> None:
        """The association is over without a release; nothing more can be sent."""


class Phase(IntEnum):
    """Where an association in the fast path stands."""

    BETWEEN_MESSAGES = 0
    RECEIVING = 1
    ANSWERING = 2


class SessionState(NamedTuple):
    """Since when, by the loop's clock, and the bytes of the data set in transit."""

    phase: Phase
    since: float
    received: int


class Unfinished(NamedTuple):
    """A C-STORE that leaves the fast path without an answer: all of it came, or `refusal` is for what is to come."""

    context_id: int
    command_set: bytes
    ended: bool
    received: int
    refusal: Refusal


class FastSession(Protocol):
    """An association's time in the fast path."""

    @property
    def standing(self) -> SessionState:
        """Return where it stands."""

    def end(self) -> None:
        """Leave the fast path now, as far as it has come."""
