"""The seam between the upper layer and the spool: one C-STORE, from its command set to its answer.

The upper layer calls `Sink.begin` when the command set is complete, `write` for each fragment of the data
set, and `finish` after the last. It never waits: the answer comes back when the instance is durable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_scp.statuses import Status
from edge_scp.store_service import Refusal, StoreCommand


@dataclass(frozen=True, slots=True)
class Caller:
    """The association an instance comes over; all it brings belongs to its trace."""

    association_id: str
    calling_aet: str
    called_aet: str
    source_address: str
    traceparent: str
    listener: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The C-STORE response: a status and, unless it is success, an Error Comment."""

    status: Status
    error_comment: str = ""


class Reception(Protocol):
    """One instance arriving; used from the event loop's thread only."""

    def write(self, *fragments: memoryview) -> None:
        """Take fragments of the data set, any size; never raises, never keeps the views."""

    def finish(self, answered: Callable[[Answer], None]) -> None:
        """All fragments came: `answered` is called once, later, in the event loop's thread."""

    def abandon(self) -> None:
        """Forget an instance that will not be finished; nobody is told, nothing is kept."""


class Sink(Protocol):
    """Where instances go."""

    def begin(self, command: StoreCommand, caller: Caller) -> Reception:
        """Start an instance; never raises, since a refusal is kept for `finish` to answer."""

    def refuse(self, command: StoreCommand, caller: Caller, refusal: Refusal, received: int) -> Reception:
        """Go on with an instance that is refused, after so many bytes of it."""
