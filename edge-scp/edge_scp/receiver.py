"""Receive instances: decide, spool, and only then answer. The edge's one failure policy for C-STORE.

An instance is written to the spool while it arrives. What cannot be kept is refused as soon as that is known;
the rest of it is counted and forgotten.
"""

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache

from bucky.errors import Retriable
from bucky.events import utc_now
from bucky.identity import Identity, IdentityReader, Layouts
from bucky.log import get_logger
from bucky.part10 import FileMeta
from bucky.trace import child_of
from edge_scp.announcements import Announcer
from edge_scp.capacity import Capacity
from edge_scp.committer import Commit, Committer
from edge_scp.disk import Disk
from edge_scp.metrics import ReceiverMetrics
from edge_scp.reception import Answer, Caller
from edge_scp.record import Record
from edge_scp.spool_file import SpoolFile
from edge_scp.spool_folder import SpoolFolder
from edge_scp.statuses import Status
from edge_scp.store_service import Refusal, StoreCommand, decide, objection

log = get_logger("edge")

# What a sender need not wait for is done for several instances together, so soon after they were answered.
SETTLE_SECONDS = 0.005


_SUCCESS = Answer(Status.SUCCESS)


@lru_cache(maxsize=256)
def _layouts(_calling_aet: str, _abstract_syntax_uid: str, _transfer_syntax_uid: str) -> Layouts:
    """Return the layouts of instances that are likely to be laid out alike."""
    return Layouts()


class Receiver:
    """The `Sink` of one process: turns what associations bring into durable spool entries.

    Used from the running event loop's thread only, where it is also made.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        capacity: Capacity,
        announcer: Announcer,
        committer: Committer,
        metrics: ReceiverMetrics,
        disk: Disk | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._folder, self._capacity, self._announcer, self._metrics = folder, capacity, announcer, metrics
        self._disk = disk or Disk()
        self._ready = self._disk.open_folder(folder.ready)
        self._unsettled: list[tuple[SpoolFile, Callable[[], None]]] = []
        self._committer = committer
        committer.deliver = self._committed

    def begin(self, command: StoreCommand, caller: Caller) -> "Arrival":
        """Start an instance."""
        return Arrival(self, command, caller)

    def close(self) -> None:
        """Make durable what was finished, and end."""
        self._committer.close()
        self.settle()
        self._disk.close(self._ready)

    def create(self, meta: FileMeta) -> tuple[SpoolFile, int]:
        """Return a new file, and the committer's epoch before it was begun."""
        epoch = self._committer.epoch
        return SpoolFile(self._disk, self._capacity, self._folder.ready, meta), epoch

    def keep(self, file: SpoolFile, footer: bytes, epoch: int, ended: Callable[[Commit], None]) -> None:
        """Make a file durable that came whole."""
        file.seal(footer, self._ready)
        self._committer.submit(Commit(file, epoch, ended))

    def later(self, answered: Callable[[Answer], None], answer: Answer) -> None:
        """Answer in the next turn of the event loop."""
        self._loop.call_soon(answered, answer)

    def kept(self, file: SpoolFile, note: Callable[[], None]) -> None:
        """Take a file that is durable, and whose sender is about to be answered; `note` is called later."""
        if not self._unsettled:
            self._loop.call_later(SETTLE_SECONDS, self.settle)
        self._unsettled.append((file, note))

    def settle(self) -> None:
        """Tell the uploader and the log of what is durable; should the process end before, the uploader looks."""
        unsettled, self._unsettled = self._unsettled, []
        self._announcer.kept((file.name, file.size) for file, _ in unsettled)
        for file, note in unsettled:
            file.close()
            note()

    def log_kept(self, record: Record, seconds: float) -> None:
        """Note that an instance was acknowledged: the canonical line."""
        size = record.object_size - record.data_set_offset
        self._metrics.received(Status.SUCCESS, size, seconds)
        log.info(
            "instance.acknowledged",
            study_instance_uid=record.study_instance_uid,
            series_instance_uid=record.series_instance_uid,
            sop_instance_uid=record.sop_instance_uid,
            sop_class_uid=record.sop_class_uid,
            transfer_syntax_uid=record.transfer_syntax_uid,
            sha256=record.sha256,
            bytes=size,
            duration_ms=round(seconds * 1000, 2),
            status=f"0x{Status.SUCCESS:04X}",
            calling_aet=record.calling_aet,
            association_id=record.association_id,
            traceparent=record.traceparent,
        )

    def log_refused(self, refusal: Refusal, command: StoreCommand, caller: Caller, size: int, seconds: float) -> None:
        """Note that an instance was refused: the canonical line."""
        self._metrics.received(refusal.status, size, seconds)
        log.warning(
            "instance.refused",
            status=f"0x{refusal.status:04X}",
            reason=refusal.comment,
            sop_class_uid=command.abstract_syntax_uid,
            transfer_syntax_uid=command.transfer_syntax_uid,
            bytes=size,
            duration_ms=round(seconds * 1000, 2),
            calling_aet=caller.calling_aet,
            association_id=caller.association_id,
        )

    def _committed(self, commits: list[Commit]) -> None:
        for commit in commits:
            try:
                commit.ended(commit)
            except Exception:
                # Of one association; the others' instances are as durable as they were.
                log.exception("answer.failed")


class Arrival:
    """The `Reception` of one instance."""

    __slots__ = (
        "_answered", "_caller", "_command", "_epoch", "_file", "_identity", "_reader", "_receiver", "_record",
        "_refusal", "_seconds", "_size", "_started",
    )  # fmt: skip

    def __init__(self, receiver: Receiver, command: StoreCommand, caller: Caller) -> None:
        self._receiver, self._command, self._caller = receiver, command, caller
        layouts = _layouts(caller.calling_aet, command.abstract_syntax_uid, command.transfer_syntax_uid)
        self._reader = IdentityReader(command.transfer_syntax_uid, layouts)
        self._identity: Identity | None = None
        self._file: SpoolFile | None = None
        self._record: Record | None = None
        self._size = self._epoch = 0
        self._started = self._seconds = 0.0
        self._refusal = objection(command)
        if self._refusal is None:
            self._guarded(self._create)

    def write(self, *fragments: memoryview) -> None:
        """Take fragments."""
        self._size += sum(map(len, fragments))
        if self._refusal is None:
            self._guarded(self._keep, fragments)

    def finish(self, answered: Callable[[Answer], None]) -> None:
        """Make durable what came, then answer; or answer why it is refused."""
        self._started = time.perf_counter()
        self._answered = answered
        if self._refusal is None:
            self._guarded(self._submit)
        if self._refusal is not None:
            self._receiver.later(answered, self._answer_refused(self._refusal))

    def abandon(self) -> None:
        """Forget it, unless it is whole: then it is kept, though nobody will hear that it was."""
        if self._file is not None and self._record is None:
            self._discard()

    def _create(self) -> None:
        meta = FileMeta(
            sop_class_uid=self._command.affected_sop_class_uid,
            sop_instance_uid=self._command.affected_sop_instance_uid,
            transfer_syntax_uid=self._command.transfer_syntax_uid,
            calling_aet=self._caller.calling_aet,
            called_aet=self._caller.called_aet,
        )
        self._file, self._epoch = self._receiver.create(meta)

    def _keep(self, fragments: tuple[memoryview, ...]) -> None:
        if self._identity is None and any(map(self._reader.feed, fragments)) and not self._judged():
            return
        if self._file is not None:
            self._file.write(*fragments)

    def _judged(self) -> bool:
        """Decide, now that the data set told what it is; return whether it is kept."""
        decision = decide(self._command, self._reader)
        if isinstance(decision, Refusal):
            self._refuse(decision)
            return False
        self._identity = decision
        return True

    def _submit(self) -> None:
        if self._identity is None and not self._judged():
            return
        if self._file is None or self._identity is None:
            raise AssertionError("an instance that is not refused has a file and an identity")
        self._record = self._recorded(self._file, self._identity)
        self._receiver.keep(self._file, self._record.footer(), self._epoch, self._ended)

    def _recorded(self, file: SpoolFile, identity: Identity) -> Record:
        return Record(
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=self._command.transfer_syntax_uid,
            sha256=file.sha256,
            object_size=file.size,
            data_set_offset=file.data_set_offset,
            calling_aet=self._caller.calling_aet,
            called_aet=self._caller.called_aet,
            source_address=self._caller.source_address,
            association_id=self._caller.association_id,
            received_at=utc_now(),
            traceparent=child_of(self._caller.traceparent),
        )

    def _ended(self, commit: Commit) -> None:
        """Answer, after the sync; success only when it succeeded."""
        if commit.failure is not None:
            refusal = Refusal(Status.OUT_OF_RESOURCES, str(commit.failure))
            self._discard()
            self._answered(self._answer_refused(refusal))
            return
        self._receiver.kept(commit.file, self._note)
        self._seconds = time.perf_counter() - self._started
        self._answered(_SUCCESS)

    def _note(self) -> None:
        if self._record is not None:
            self._receiver.log_kept(self._record, self._seconds)

    def _guarded(self, work: Callable[..., None], *arguments: tuple[memoryview, ...]) -> None:
        """Run a step; whatever goes wrong is a refusal, never success and never the association's end."""
        try:
            work(*arguments)
        except Retriable as error:
            self._refuse(Refusal(Status.OUT_OF_RESOURCES, str(error)))
        except Exception:
            # An unforeseen failure must still be answered.
            log.exception("instance.failed", association_id=self._caller.association_id)
            self._refuse(Refusal(Status.PROCESSING_FAILURE, "Unexpected error; see the receiver's log"))

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._discard()

    def _discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.discard()

    def _answer_refused(self, refusal: Refusal) -> Answer:
        seconds = time.perf_counter() - self._started
        self._receiver.log_refused(refusal, self._command, self._caller, self._size, seconds)
        return Answer(refusal.status, refusal.error_comment)
