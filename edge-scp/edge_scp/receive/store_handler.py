"""Receive instances: decide, spool, and only then answer. The edge's one failure policy for C-STORE.

An instance is written to the spool while it arrives. What cannot be kept is refused as soon as that is known;
the rest of it is counted and forgotten.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bucky.dicom.part10 import FileMeta
from bucky.log import get_logger, write_lines
from edge_scp.association.sink import Requestor, StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.store_service import Refusal, StoreCommand
from edge_scp.metrics import ReceiverMetrics
from edge_scp.receive.instance import Acknowledged, SpooledInstance
from edge_scp.spool.capacity import Capacity
from edge_scp.spool.disk import Disk
from edge_scp.spool.file import SpoolFile
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.group_commit import Commit, Committer
from edge_scp.spool.notifications import Notifier

log = get_logger("edge")

# What a sender need not wait for is done for several instances together, this soon after they were answered.
SETTLE_SECONDS = 0.02


class FastPathResults(NamedTuple):
    """Instances that became durable in the fast path.

    Names and sizes of their files, in the order they came; the bytes of all data sets; the seconds that each took;
    lines for the log, as JSON.
    """

    files: Sequence[tuple[str, int]]
    size: int
    seconds: Sequence[float]
    lines: bytes


_NOTHING_KEPT = FastPathResults((), 0, (), b"")


class StoreHandler:
    """The `Sink` of one process: turns what associations bring into durable spool entries.

    Used from the running event loop's thread only, where it is also made.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        capacity: Capacity,
        announcer: Notifier,
        committer: Committer,
        metrics: ReceiverMetrics,
        disk: Disk | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._folder, self._capacity, self._announcer, self._metrics = folder, capacity, announcer, metrics
        self._disk = disk or Disk()
        self._ready = self._disk.open_folder(folder.ready)
        self._unsettled: list[tuple[SpoolFile, Acknowledged]] = []
        self._settling: asyncio.TimerHandle | None = None
        # What became durable in the fast path since it was asked last.
        self.fast_path_results: Callable[[], FastPathResults] = lambda: _NOTHING_KEPT
        self._committer = committer
        committer.deliver = self._committed

    def begin(self, command: StoreCommand, caller: Requestor) -> "SpooledInstance":
        """Start an instance."""
        return SpooledInstance(self, command, caller)

    def refuse(self, command: StoreCommand, caller: Requestor, refusal: Refusal, received: int) -> "SpooledInstance":
        """Go on with an instance that is refused."""
        return SpooledInstance(self, command, caller, refusal, received)

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

    def later(self, answered: Callable[[StoreStatus], None], answer: StoreStatus) -> None:
        """Answer in the next turn of the event loop."""
        self._loop.call_soon(answered, answer)

    def kept(self, file: SpoolFile, instance: Acknowledged) -> None:
        """Take a file that is durable, and whose sender is about to be answered."""
        self._unsettled.append((file, instance))
        self.settle_soon()

    def settle_soon(self) -> None:
        """See to what is durable, when some more has come."""
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_SECONDS, self.settle)

    def settle(self) -> None:
        """Tell the uploader and the log of what is durable; should the process end before, the uploader looks."""
        self._settling = None
        unsettled, self._unsettled = self._unsettled, []
        on_fast_path = self.fast_path_results()
        here = [(instance.name, instance.file_size) for _, instance in unsettled]
        # By name, and so in the order they came.
        self._announcer.kept(sorted([*here, *on_fast_path.files]) if here else on_fast_path.files)
        self._metrics.kept(on_fast_path.size, on_fast_path.seconds)
        write_lines(log, on_fast_path.lines)
        for file, instance in unsettled:
            file.close()
            self._log_kept(instance)

    def _log_kept(self, instance: Acknowledged) -> None:
        """Note that an instance was acknowledged: the canonical line, which the fast path writes too."""
        self._metrics.kept(instance.size, (instance.seconds,))
        log.info(
            "instance.acknowledged",
            study_instance_uid=instance.study_instance_uid,
            series_instance_uid=instance.series_instance_uid,
            sop_instance_uid=instance.sop_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            sha256=instance.sha256,
            bytes=instance.size,
            duration_ms=round(instance.seconds * 1000, 2),
            status=f"0x{Status.SUCCESS:04X}",
            calling_aet=instance.caller.calling_aet,
            association_id=instance.caller.association_id,
            traceparent=instance.traceparent,
        )

    def log_refused(
        self, refusal: Refusal, command: StoreCommand, caller: Requestor, size: int, seconds: float
    ) -> None:
        """Note that an instance was refused: the canonical line."""
        self._metrics.refused(refusal.status, seconds)
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
