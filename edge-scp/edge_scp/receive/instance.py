"""One instance on its way from an association into the spool, as Python takes it."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

from bucky.cloudevents import utc_now
from bucky.dicom.identity import Identity, IdentityReader, Layouts
from bucky.dicom.part10 import FileMeta
from bucky.errors import Retriable
from bucky.log import get_logger
from bucky.trace import child_of
from edge_scp.association.sink import Requestor, StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.store_service import Refusal, StoreCommand, decide, objection
from edge_scp.spool.file import SpoolFile
from edge_scp.spool.group_commit import Commit
from edge_scp.spool.record import SpoolRecord

log = get_logger("edge")

_SUCCESS = StoreStatus(Status.SUCCESS)


class Acknowledged(NamedTuple):
    """An instance that is durable; sizes in bytes, of its data set and of its file."""

    caller: Requestor
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    sha256: str
    traceparent: str
    size: int
    name: str
    file_size: int
    seconds: float


class Spooler(Protocol):
    """What makes instances durable, several at a time."""

    def create(self, meta: FileMeta) -> tuple[SpoolFile, int]:
        """Return a new file, and the committer's epoch before it was begun."""
        ...

    def keep(self, file: SpoolFile, footer: bytes, epoch: int, ended: Callable[[Commit], None]) -> None:
        """Make a file durable that came whole."""
        ...

    def kept(self, file: SpoolFile, instance: Acknowledged) -> None:
        """Take a file that is durable, and whose sender is about to be answered."""
        ...

    def later(self, answered: Callable[[StoreStatus], None], answer: StoreStatus) -> None:
        """Answer in the next turn of the event loop."""
        ...

    def log_refused(
        self, refusal: Refusal, command: StoreCommand, caller: Requestor, size: int, seconds: float
    ) -> None:
        """Note that an instance was refused: the canonical line."""
        ...


@lru_cache(maxsize=256)
def _layouts(_calling_aet: str, _abstract_syntax_uid: str, _transfer_syntax_uid: str) -> Layouts:
    """Return the layouts of instances that are likely to be laid out alike."""
    return Layouts()


class SpooledInstance:
    """The `IncomingInstance` of one instance."""

    __slots__ = (
        "_answered",
        "_caller",
        "_command",
        "_epoch",
        "_file",
        "_identity",
        "_reader",
        "_record",
        "_refusal",
        "_size",
        "_spooler",
        "_started",
    )  # fmt: skip

    def __init__(
        self,
        spooler: Spooler,
        command: StoreCommand,
        caller: Requestor,
        refusal: Refusal | None = None,
        received: int = 0,
    ) -> None:
        self._spooler, self._command, self._caller = spooler, command, caller
        layouts = _layouts(caller.calling_aet, command.abstract_syntax_uid, command.transfer_syntax_uid)
        self._reader = IdentityReader(command.transfer_syntax_uid, layouts)
        self._identity: Identity | None = None
        self._file: SpoolFile | None = None
        self._record: SpoolRecord | None = None
        self._size, self._epoch = received, 0
        self._started = 0.0
        self._refusal = refusal or objection(command)
        if self._refusal is None:
            self._guarded(self._create)

    def write(self, *fragments: memoryview) -> None:
        """Take fragments."""
        self._size += sum(map(len, fragments))
        if self._refusal is None:
            self._guarded(self._keep, fragments)

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """Make durable what came, then answer; or answer why it is refused."""
        self._started = time.perf_counter()
        self._answered = answered
        if self._refusal is None:
            self._guarded(self._submit)
        if self._refusal is not None:
            self._spooler.later(answered, self._answer_refused(self._refusal))

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
        self._file, self._epoch = self._spooler.create(meta)

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
        self._spooler.keep(self._file, self._record.footer(), self._epoch, self._ended)

    def _recorded(self, file: SpoolFile, identity: Identity) -> SpoolRecord:
        return SpoolRecord(
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
            listener=self._caller.listener,
        )

    def _ended(self, commit: Commit) -> None:
        """Answer, after the sync; success only when it succeeded."""
        if commit.failure is not None:
            refusal = Refusal(Status.OUT_OF_RESOURCES, str(commit.failure))
            self._discard()
            self._answered(self._answer_refused(refusal))
            return
        if self._record is None:
            raise AssertionError("what is made durable has a record")
        self._spooler.kept(commit.file, self._acknowledged(commit.file, self._record))
        self._answered(_SUCCESS)

    def _acknowledged(self, file: SpoolFile, record: SpoolRecord) -> Acknowledged:
        return Acknowledged(
            self._caller,
            record.study_instance_uid,
            record.series_instance_uid,
            record.sop_instance_uid,
            record.sop_class_uid,
            record.transfer_syntax_uid,
            record.sha256,
            record.traceparent,
            record.object_size - record.data_set_offset,
            file.name,
            file.size,
            time.perf_counter() - self._started,
        )

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

    def _answer_refused(self, refusal: Refusal) -> StoreStatus:
        seconds = time.perf_counter() - self._started
        self._spooler.log_refused(refusal, self._command, self._caller, self._size, seconds)
        return StoreStatus(refusal.status, refusal.error_comment)
