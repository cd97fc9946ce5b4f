"""The seams of the upper layer: to the spool, for one C-STORE, and to whoever takes reports on commitments.

The upper layer calls `Sink.begin` when the command set is complete, `write` for each fragment of the data
set, and `finish` after the last. It never waits: the answer comes back when the instance is durable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_scp.association.statuses import Status
from edge_scp.association.store_service import Refusal, StoreCommand


@dataclass(frozen=True, slots=True)
class Requestor:
    """The association an instance comes over; all it brings belongs to its trace."""

    association_id: str
    calling_aet: str
    called_aet: str
    source_address: str
    traceparent: str
    listener: str = ""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """The response: a status and, unless it is success, an Error Comment."""

    status: Status
    error_comment: str = ""


class IncomingInstance(Protocol):
    """One instance arriving; used from the event loop's thread only."""

    def write(self, *fragments: memoryview) -> None:
        """Take fragments of the data set, any size; never raises, never keeps the views."""

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """All fragments came: `answered` is called once, later, in the event loop's thread."""

    def abandon(self) -> None:
        """Forget an instance that will not be finished; nobody is told, nothing is kept."""


class Sink(Protocol):
    """Where instances go."""

    def begin(self, command: StoreCommand, caller: Requestor) -> IncomingInstance:
        """Start an instance; never raises, since a refusal is kept for `finish` to answer."""

    def refuse(self, command: StoreCommand, caller: Requestor, refusal: Refusal, received: int) -> IncomingInstance:
        """Go on with an instance that is refused, of which `received` bytes have come."""


class CommitmentSink(Protocol):
    """Where N-EVENT-REPORTs on storage commitments go (PS3.4 §J.3.3)."""

    def report(self, event_type: int, transfer_syntax_uid: str, caller: Requestor) -> IncomingInstance:
        """Start a report; its data set is written to what is returned."""
