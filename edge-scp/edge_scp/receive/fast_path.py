"""The express lane: associations that do the usual are served in native code (`edge-scp/express`, docs/adr/0017).

Between two messages a connection without TLS may enter it. There, C-STORE-RQs are taken, kept and answered as
`upper_layer` and `receiver` do it. Whatever is not usual comes back as it was received, and is served here.
Where the native code was not built, everything is.
"""

import asyncio
import os
import selectors
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

from bucky.dicom.identity import DEFLATED, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT
from bucky.dicom.part10 import around_the_instance
from bucky.errors import Retriable
from bucky.log import get_logger
from bucky.settings import Settings
from edge_scp.association.boundaries import Phase, SessionState, Unfinished
from edge_scp.association.connection import Connection
from edge_scp.association.service_user import AcceptedAssociation
from edge_scp.association.sink import Requestor
from edge_scp.association.statuses import Status
from edge_scp.association.storage_syntaxes import STORAGE_COMMITMENT, VERIFICATION
from edge_scp.association.store_service import Refusal
from edge_scp.receive.store_handler import FastPathResults, StoreHandler
from edge_scp.spool.capacity import Capacity
from edge_scp.spool.disk import Disk
from edge_scp.spool.file import not_synced, refused
from edge_scp.spool.folder import SpoolFolder

log = get_logger("edge")

try:
    from edge_scp import _express
except ImportError:
    _express = None  # type: ignore[assignment]

# Whether SHA-256 is computed; benchmarks measure what it costs.
DIGEST = True
# A peer that takes shorter PDUs would get its responses in several.
_RESPONSE_BYTES = 512
_CUT_SHORT = Refusal(Status.PROCESSING_FAILURE, "The instance did not come whole")


def native_loop(
    settings: Settings,
    selector: "FastPathSelector",
    receiver: StoreHandler,
    capacity: Capacity,
    *,
    ledger: int,
    asking: tuple[int, int, int, int, int],
    trays: "WorkerSlots | None" = None,
) -> "FastPath | None":
    """Return the process's lane, served by the running loop's selector; None if settings or machine have none.

    `ledger` is the descriptor of the spool's account; `asking` is as `SyncQueue.lane` has it.
    """
    if _express is None or not settings.edge_express or settings.spool_sync == "file":
        return None
    synced = settings.spool_sync == "group"
    lane = _express.Lane(
        Disk().open_folder(SpoolFolder(settings.spool_dir).ready),
        (ledger, *capacity.places),
        asking if synced else None,
        capacity.allowance,
        max_pdu=settings.edge_max_pdu,
        write_back=synced,
        digest=DIGEST,
    )
    if trays is not None and trays.any:
        _use(lane, trays, synced=synced)
    return FastPath(lane, selector, receiver)


@dataclass(frozen=True, slots=True)
class WorkerSlots:
    """The trays that one of so many receivers may take, by their page; `slot` is its slot in the ledger."""

    path: Path
    page: int
    receiver: int
    receivers: int
    slot: int

    @property
    def any(self) -> bool:
        """Tell whether there are trays."""
        return os.fstat(self.page).st_size > 0


def _use(lane: "_express.Lane", trays: WorkerSlots, *, synced: bool) -> None:
    """Have instances kept in trays, past the cache if they are to be on the disk; unless this process may not."""
    try:
        descriptor = os.open(trays.path, os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if synced else 0))
        try:
            lane.use_trays(descriptor, trays.page, trays.receiver, trays.receivers, trays.slot)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("trays.unusable", error=str(error))


class FastPathSelector(selectors.EpollSelector):
    """What an event loop waits with. The lane is served while it waits, and the loop need not turn for it."""

    lane: "_express.Lane | None" = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready."""
        if self.lane is None:
            return super().select(timeout)
        self.lane.serve(self.fileno(), timeout)
        return super().select(0)


class FastPath:
    """The lane of one process, in the running event loop."""

    def __init__(self, lane: "_express.Lane", selector: FastPathSelector, receiver: StoreHandler) -> None:
        self._lane, self._selector, self._receiver = lane, selector, receiver
        self._rides: dict[int, _Ride] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(lane.fileno(), self._hear)
        selector.lane = lane
        receiver.kept_in_lane = self._kept

    def offer(self, association: AcceptedAssociation, connection: Connection) -> None:
        """Take a connection that is between two messages, if it is a usual one."""
        offered = association.offered()
        if offered is None:
            return
        caller, agreement = offered
        contexts = [
            (context_id, _context(context.abstract_syntax_uid, context.transfer_syntax_uid, caller))
            for context_id, context in agreement.contexts.items()
            if _usual(context.abstract_syntax_uid, context.transfer_syntax_uid)
        ]
        if not contexts or 0 < agreement.peer_max_pdu < _RESPONSE_BYTES:
            return
        _version, trace_id, _span, flags = caller.traceparent.split("-")
        number = self._lane.enter(connection.lend(), _fields(caller), (trace_id, flags), contexts)
        self._rides[number] = ride = _Ride(self, number, association, connection)
        association.lane_entered(ride)

    def close(self) -> None:
        """Wait for what is not durable yet, and end."""
        self._selector.lane = None
        self._loop.remove_reader(self._lane.fileno())
        self._lane.close()

    def standing(self, number: int) -> SessionState:
        """Return where an association stands."""
        progress = self._lane.progress(number)
        if progress is None:
            raise AssertionError("a ride ends when the connection leaves the lane")
        phase, since, received = progress
        return SessionState(Phase(phase), since, received)

    def end(self, number: int) -> None:
        """Let a connection leave, wherever it stands."""
        left = self._lane.leave(number)
        if left is not None:
            self._left(left)

    def _hear(self) -> None:
        left, kept = self._lane.news()
        if kept:
            self._receiver.settle_soon()
        for each in left:
            self._left(each)

    def _kept(self) -> FastPathResults:
        return FastPathResults(*self._lane.kept())

    def _left(self, left: "_express.LeftFields") -> None:
        number, answered, request, refusal, held, unsent, closed = left
        ride = self._rides.pop(number)
        unfinished = None
        if request is not None:
            command_set, context_id, ended, received = request
            reason = _CUT_SHORT if refusal is None else _refusal(*refusal)
            unfinished = Unfinished(context_id, command_set, ended, received, reason)
        try:
            ride.association.lane_left(answered, unfinished)
            ride.connection.take_back(held, unsent, closed)
        except Exception:
            # Unforeseen, and of this association alone.
            log.exception("connection.failed")
            ride.connection.abort()


@dataclass(frozen=True, slots=True)
class _Ride:
    """One connection in the lane."""

    express: FastPath
    number: int
    association: AcceptedAssociation
    connection: Connection

    @property
    def standing(self) -> SessionState:
        """Return where it stands."""
        return self.express.standing(self.number)

    def end(self) -> None:
        """Leave the lane."""
        self.express.end(self.number)


def _usual(abstract_syntax_uid: str, transfer_syntax_uid: str) -> bool:
    rare = transfer_syntax_uid in DEFLATED or transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
    return abstract_syntax_uid not in {VERIFICATION, STORAGE_COMMITMENT} and not rare


def _context(abstract_syntax_uid: str, transfer_syntax_uid: str, caller: Requestor) -> "_express.Context":
    return _context_of(abstract_syntax_uid, transfer_syntax_uid, caller.calling_aet, caller.called_aet)


@lru_cache(maxsize=1024)
def _context_of(
    abstract_syntax_uid: str, transfer_syntax_uid: str, calling_aet: str, called_aet: str
) -> "_express.Context":
    before, after = around_the_instance(abstract_syntax_uid, transfer_syntax_uid, calling_aet, called_aet)
    return _express.Context(abstract_syntax_uid, transfer_syntax_uid, transfer_syntax_uid in IMPLICIT, before, after)


def _fields(caller: Requestor) -> tuple[str, str]:
    """Return what the instances of an association have in common, as JSON: in a `SpoolRecord`, and in the log."""
    in_log = {"calling_aet": caller.calling_aet, "association_id": caller.association_id}
    in_record = {
        **in_log,
        "called_aet": caller.called_aet,
        "source_address": caller.source_address,
        "listener": caller.listener,
    }
    return orjson.dumps(in_record)[1:-1].decode(), orjson.dumps(in_log)[1:-1].decode()


def _refusal(error: int, reason: str | None) -> Refusal:
    """Return why the lane does not keep an instance: no room, the disk's error, or a sync that failed."""
    obstacle: Retriable | str
    if reason is not None:
        obstacle = reason
    elif error:
        obstacle = refused(OSError(error, ""))
    else:
        obstacle = not_synced()
    return Refusal(Status.OUT_OF_RESOURCES, str(obstacle))
