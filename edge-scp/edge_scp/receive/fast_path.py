"""The fast path: associations that send plain C-STOREs are served in native code (`edge-scp/express`, docs/adr/0017).

Between two messages a connection without TLS may enter a session there, in which C-STORE-RQs are received, stored and
answered as `upper_layer` and `receiver` would. Anything else is handed back as it was received, and served here.
Where the native code was not built, everything is.
"""

import asyncio
import os
import selectors
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
from edge_scp.spool.sync_queue import SyncQueueEnd

log = get_logger("edge")

try:
    from edge_scp import _express
except ImportError:
    _express = None  # type: ignore[assignment]

# To a peer that takes only shorter PDUs a response goes in several, which the fast path does not do.
_RESPONSE_BYTES = 512
_CUT_SHORT = Refusal(Status.PROCESSING_FAILURE, "The instance did not come whole")


class SpoolCounters(NamedTuple):
    """The page of the spool's shared counters, and two of its words: the spool refuses, and this receiver's bytes."""

    page: int
    refusing: int
    taken: int


def native_loop(
    settings: Settings,
    selector: "FastPathSelector",
    receiver: StoreHandler,
    capacity: Capacity,
    *,
    counters: int,
    queue: SyncQueueEnd,
    slots: "WorkerSlots | None" = None,
) -> "FastPath | None":
    """Return the process's fast path, served by the running loop's selector; None if settings or machine have none.

    `counters` is the descriptor of the spool's shared counters.
    """
    if _express is None or not settings.edge_fast_path:
        return None
    native = _express.FastPath(
        ready=Disk().open_folder(SpoolFolder(settings.spool_dir).ready),
        counters=SpoolCounters(counters, *capacity.places),
        allowance=capacity.allowance,
        queue=queue,
        max_pdu=settings.edge_max_pdu,
    )
    if slots is not None and slots.any:
        _use_slots(native, slots)
    return FastPath(native, selector, receiver)


@dataclass(frozen=True, slots=True)
class WorkerSlots:
    """The slots that one of several receivers may fill; `page` holds their states."""

    path: Path
    page: int
    receiver: int
    receivers: int
    worker_id: int

    @property
    def any(self) -> bool:
        """Tell whether there are slots."""
        return os.fstat(self.page).st_size > 0


def _use_slots(native: "_express.FastPath", slots: WorkerSlots) -> None:
    """Store instances in slots, past the page cache; if the operating system refuses, they go to files."""
    try:
        descriptor = os.open(slots.path, os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
        try:
            native.use_slots(
                file=descriptor, states=slots.page, first=slots.receiver, step=slots.receivers, owner=slots.worker_id
            )
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("slots.unusable", error=str(error))


class FastPathSelector(selectors.EpollSelector):
    """What an event loop waits with. The fast path is served meanwhile, which costs no turn of the loop."""

    native: "_express.FastPath | None" = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready."""
        if self.native is None:
            return super().select(timeout)
        self.native.serve(self.fileno(), timeout)
        return super().select(0)


class FastPath:
    """The fast path of one process, in the running event loop."""

    def __init__(self, native: "_express.FastPath", selector: FastPathSelector, receiver: StoreHandler) -> None:
        self._native, self._selector, self._receiver = native, selector, receiver
        self._sessions: dict[int, _Session] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(native.fileno(), self._notified)
        selector.native = native
        receiver.fast_path_results = self._take_spooled

    def offer(self, association: AcceptedAssociation, connection: Connection) -> None:
        """Take a connection that is between two messages, if its association can be served in native code."""
        offered = association.offered()
        if offered is None:
            return
        caller, agreement = offered
        contexts = [
            (context_id, _context(context.abstract_syntax_uid, context.transfer_syntax_uid, caller))
            for context_id, context in agreement.contexts.items()
            if _is_served(context.abstract_syntax_uid, context.transfer_syntax_uid)
        ]
        if not contexts or 0 < agreement.peer_max_pdu < _RESPONSE_BYTES:
            return
        number = self._native.enter(connection.lend(), _caller(caller), contexts)
        self._sessions[number] = session = _Session(self, number, association, connection)
        association.lane_entered(session)

    def close(self) -> None:
        """Wait for what is not durable yet, and end."""
        self._selector.native = None
        self._loop.remove_reader(self._native.fileno())
        self._native.close()

    def standing(self, number: int) -> SessionState:
        """Return where a session stands."""
        progress = self._native.progress(number)
        if progress is None:
            raise AssertionError("a session ends when its connection is handed back")
        return SessionState(Phase(progress.phase), progress.since, progress.received)

    def end(self, number: int) -> None:
        """Take a connection back, wherever it stands."""
        handback = self._native.leave(number)
        if handback is not None:
            self._take_back(handback)

    def _notified(self) -> None:
        notifications = self._native.notifications()
        if notifications.spooled:
            self._receiver.settle_soon()
        for handback in notifications.handbacks:
            self._take_back(handback)

    def _take_spooled(self) -> FastPathResults:
        spooled = self._native.take_spooled()
        return FastPathResults(spooled.records, spooled.data_set_bytes, spooled.seconds, spooled.log_lines)

    def _take_back(self, handback: "_express.Handback") -> None:
        session = self._sessions.pop(handback.session)
        unfinished = _unfinished(handback.unanswered) if handback.unanswered is not None else None
        try:
            session.association.fast_path_left(handback.stored, unfinished)
            session.connection.take_back(handback.unread, handback.unsent, handback.closed)
        except Exception:
            # Unforeseen, and of this association alone.
            log.exception("connection.failed")
            session.connection.abort()


@dataclass(frozen=True, slots=True)
class _Session:
    """One connection's time on the fast path."""

    fast_path: FastPath
    number: int
    association: AcceptedAssociation
    connection: Connection

    @property
    def standing(self) -> SessionState:
        """Return where it stands."""
        return self.fast_path.standing(self.number)

    def end(self) -> None:
        """Take the connection back."""
        self.fast_path.end(self.number)


def _is_served(abstract_syntax_uid: str, transfer_syntax_uid: str) -> bool:
    """Tell whether the native code serves a presentation context: storage in little endian, not deflated."""
    unusual = transfer_syntax_uid in DEFLATED or transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
    return abstract_syntax_uid not in {VERIFICATION, STORAGE_COMMITMENT} and not unusual


def _context(abstract_syntax_uid: str, transfer_syntax_uid: str, caller: Requestor) -> "_express.Context":
    return _context_of(abstract_syntax_uid, transfer_syntax_uid, caller.calling_aet, caller.called_aet)


@lru_cache(maxsize=1024)
def _context_of(
    abstract_syntax_uid: str, transfer_syntax_uid: str, calling_aet: str, called_aet: str
) -> "_express.Context":
    before, after = around_the_instance(abstract_syntax_uid, transfer_syntax_uid, calling_aet, called_aet)
    return _express.Context(abstract_syntax_uid, transfer_syntax_uid, transfer_syntax_uid in IMPLICIT, before, after)


def _caller(caller: Requestor) -> "_express.Caller":
    """Return what all instances of an association have in common: in a `SpoolRecord`, in the log, in traces."""
    in_log = {"calling_aet": caller.calling_aet, "association_id": caller.association_id}
    in_record = {
        **in_log,
        "called_aet": caller.called_aet,
        "source_address": caller.source_address,
        "listener": caller.listener,
    }
    _version, trace_id, _span, trace_flags = caller.traceparent.split("-")
    return _express.Caller(
        record_fields=orjson.dumps(in_record)[1:-1].decode(),
        log_fields=orjson.dumps(in_log)[1:-1].decode(),
        trace_id=trace_id,
        trace_flags=trace_flags,
    )


def _unfinished(unanswered: "_express.Unanswered") -> Unfinished:
    refusal = _refusal(unanswered) if unanswered.refused else _CUT_SHORT
    return Unfinished(unanswered.context_id, unanswered.command_set, unanswered.complete, unanswered.received, refusal)


def _refusal(unanswered: "_express.Unanswered") -> Refusal:
    """Return why an instance is not stored: there was no room, the disk failed, or a sync did."""
    obstacle: Retriable | str
    if unanswered.reason is not None:
        obstacle = unanswered.reason
    elif unanswered.errno is not None:
        obstacle = refused(OSError(unanswered.errno, ""))
    else:
        obstacle = not_synced()
    return Refusal(Status.OUT_OF_RESOURCES, str(obstacle))
