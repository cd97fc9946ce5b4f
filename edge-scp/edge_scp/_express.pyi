"""The fast path's native code: `edge-scp/express`."""

from collections.abc import Callable, Sequence

from edge_scp.receive.fast_path import SpoolCounters
from edge_scp.spool.sync_queue import SyncQueueEnd

class Context:
    """An accepted presentation context; `before` and `after` are the file meta information around an instance's UID."""

    def __init__(
        self, sop_class: str, transfer_syntax: str, implicit: bool, before: bytes, after: bytes, /
    ) -> None: ...

class Caller:
    """The sender of an association's instances: members of JSON objects, without their braces, and its trace."""

    def __init__(self, *, record_fields: str, log_fields: str, trace_id: str, trace_flags: str) -> None: ...

class Unanswered:
    """A C-STORE that was not answered; one that is refused has a `reason`, an `errno`, or neither if a sync failed."""

    context_id: int
    command_set: bytes
    complete: bool
    received: int
    refused: bool
    reason: str | None
    errno: int | None

class Handback:
    """A connection that is handed back; `closed` by the peer (0), or by an error (errno)."""

    session: int
    stored: int
    unanswered: Unanswered | None
    unread: bytes
    unsent: bytes
    closed: int | None

class Notifications:
    """What Python has not been told of: connections, and how many instances `take_spooled` would return."""

    handbacks: list[Handback]
    spooled: int

class Spooled:
    """Instances that became durable: names and sizes of their records, bytes of all data sets, seconds, log lines."""

    records: list[tuple[str, int]]
    data_set_bytes: int
    seconds: list[float]
    log_lines: bytes

class Progress:
    """Where a session stands: its phase (`Phase`), since when, and the bytes of the data set in transit."""

    phase: int
    since: float
    received: int

class FastPath:
    def __init__(
        self,
        *,
        ready: int,
        counters: SpoolCounters,
        allowance: Callable[[int], int],
        queue: SyncQueueEnd,
        max_pdu: int,
    ) -> None: ...
    def use_slots(self, *, file: int, states: int, first: int, step: int, owner: int) -> None: ...
    def fileno(self) -> int: ...
    def enter(self, descriptor: int, caller: Caller, contexts: Sequence[tuple[int, Context]]) -> int: ...
    def leave(self, session: int) -> Handback | None: ...
    def serve(self, other: int, seconds: float | None) -> None: ...
    def notifications(self) -> Notifications: ...
    def take_spooled(self) -> Spooled: ...
    def progress(self, session: int) -> Progress | None: ...
    def close(self) -> None: ...

def read_identity(data: bytes, implicit: bool) -> list[str] | None: ...
