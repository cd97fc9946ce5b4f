"""A spool under test, with what a receiver and the uploader have of it, in one process."""

import asyncio
import io
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bucky.dicom.identity import Identity
from bucky.dicom.part10 import FileMeta
from edge_scp.metrics import ReceiverMetrics
from edge_scp.receive.store_handler import StoreHandler
from edge_scp.spool.capacity import Capacity, SharedCounters, SpoolLimits
from edge_scp.spool.disk import Disk
from edge_scp.spool.entries import Spool
from edge_scp.spool.file import SpoolFile
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.group_commit import Commit, GroupCommitter
from edge_scp.spool.notifications import Notifications, Notifier, open_pipe
from edge_scp.spool.record import SpoolRecord, verify
from edge_scp.spool.slots import HEADER_BYTES, SLOT_BYTES, Slots
from edge_scp.spool.sync_queue import SyncQueue, SyncQueueDescriptors, SyncQueueEnd
from edge_scp.spool.syncer import Syncer

IDENTITY = Identity("1.2.840.10008.5.1.4.1.1.7", "1.2.3.4", "1.2.3", "1.2.33")
META = FileMeta(IDENTITY.sop_class_uid, IDENTITY.sop_instance_uid, "1.2.840.10008.1.2", "CT", "BUCKY")
DATA = b"\x08\x00\x16\x00\x02\x00\x00\x001\0" * 1000
SLOT = 3
# The world keeps instances itself, and has a receiver keep others: two numbers on one board.
ITSELF, RECEIVER = 0, 1


class SyncingThread:
    """The committer process's work over the test's own disk, in a thread."""

    def __init__(self, disk: Disk, ready: int) -> None:
        # Two that submit files, and their fast paths.
        self._descriptors = SyncQueueDescriptors.create(4)
        self.board = SyncQueue(self._descriptors)
        self._syncer = Syncer(self.board, disk, ready, lambda _instances, _seconds: None)
        self.gathering = threading.Lock()
        """Held, nothing is synced: what is asked for meanwhile waits together."""
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._ended = True
        os.eventfd_write(self.board.questions, 1)
        self._thread.join()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _run(self) -> None:
        while not self._ended:
            self.board.hear_questions(60)
            with self.gathering:
                self._syncer.work()


def verified(path: Path) -> SpoolRecord:
    """Return what a spool file holds, after checking its digest."""
    with path.open("rb") as file:
        return verify(file)


def all_kept(spool: Path) -> list[tuple[SpoolRecord, int]]:
    """Return what is in a spool's files and slots, and its bytes, after checking digests; an edge may be using it."""
    files = sorted((spool / "ready").iterdir())
    kept = [(verified(file), file.stat().st_size) for file in files]
    if (spool / "slots").exists():
        content = (spool / "slots").read_bytes()
        for start in range(0, len(content), SLOT_BYTES):
            magic, _when, size, _checksum = struct.unpack_from("<8sQQI", content, start)
            if magic == b"BUCKYTR1":
                kept.append((verify(io.BytesIO(content[start + HEADER_BYTES :][:size])), size))
    return kept


class SpoolWorld:
    """One edge's spool from its start to `close`; `begin` to `keep` are a receiver's side, `spool` the uploader's."""

    def __init__(
        self,
        folder: Path,
        *,
        disk: Disk | None = None,
        max_bytes: int = 10**9,
        min_free: int = 0,
        resume: float = 1.0,
        slots: int = 0,
    ) -> None:
        self.disk = disk or Disk()
        self.folder = SpoolFolder(folder)
        self.folder.make()
        self.counters, self.counters_descriptor = SharedCounters.create()
        self.limits = SpoolLimits(
            self.counters,
            max_bytes=max_bytes,
            min_free_bytes=min_free,
            resume_fraction=resume,
            free_bytes=lambda: self.disk.free_bytes(folder),
        )
        self.capacity = Capacity(self.counters, SLOT, self.limits)
        self.reading, self.writing = open_pipe()
        self.arrivals = Notifications(self.reading)
        self.announcer = Notifier(self.writing, self.counters, SLOT)
        self.ready_descriptor = self.disk.open_folder(self.folder.ready)
        self._syncing = SyncingThread(self.disk, self.ready_descriptor)
        self._ended: list[Commit] = []
        self.committer = GroupCommitter(self._syncing.board, ITSELF)
        self.committer.deliver = self._ended.extend
        self.uploader_hangs = False
        self.slots, self.slots_page = Slots.start(self.folder.slots, slots)
        if self.slots is not None:
            self.slots.prepare(slots, lambda: True)
        self.spool = Spool(self.folder, self.counters, self.disk, self.slots)
        self.spool.open()

    @property
    def fast_path_end(self) -> SyncQueueEnd:
        """The end of the sync queue that the receiver's fast path has."""
        return self._syncing.board.fast_path_end(RECEIVER)

    @property
    def synced(self) -> bool:
        """Whether all files that were submitted to the commit worker are completed."""
        board = self._syncing.board
        return board.all_asked() == [completed.files for completed in board.all_dealt()]

    def begin(self, meta: FileMeta = META) -> SpoolFile:
        """Begin an instance."""
        return SpoolFile(self.disk, self.capacity, self.folder.ready, meta)

    def seal(self, file: SpoolFile, identity: Identity = IDENTITY) -> SpoolRecord:
        """End an instance that is whole."""
        record = SpoolRecord(
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=META.transfer_syntax_uid,
            sha256=file.sha256,
            object_size=file.size,
            data_set_offset=file.data_set_offset,
            calling_aet="CT",
            called_aet="BUCKY",
            source_address="127.0.0.1",
            association_id="a1",
            received_at=datetime.now(UTC),
            traceparent="00-" + "1" * 32 + "-22-01",
        )
        file.seal(record.footer(), self.ready_descriptor)
        return record

    def commit(self, *files: SpoolFile, epoch: int | None = None) -> None:
        """Make files durable, the uploader told; raise what failed, after giving their room back."""
        begun = self.committer.epoch if epoch is None else epoch
        self._ended.clear()
        with self._syncing.gathering:
            for file in files:
                self.committer.submit(Commit(file, begun, lambda _commit: None))
        self._wait_for(len(files))
        ended = list(self._ended)
        self.announcer.kept((commit.file.name, commit.file.size) for commit in ended if commit.failure is None)
        for commit in ended:
            if commit.failure is not None:
                commit.file.discard()
            else:
                commit.file.close()
        if not self.uploader_hangs:
            self.spool.arrived(self.arrivals.read())
        for commit in ended:
            if commit.failure is not None:
                raise commit.failure

    def keep(self, data: bytes = DATA, identity: Identity = IDENTITY) -> SpoolRecord:
        """Receive, acknowledge and announce one instance as a receiver does."""
        meta = FileMeta(identity.sop_class_uid, identity.sop_instance_uid, META.transfer_syntax_uid, "CT", "BUCKY")
        file = self.begin(meta)
        undone: Callable[[], None] | None = file.discard
        try:
            file.write(memoryview(data))
            record = self.seal(file, identity)
            undone = None
            self.commit(file)
        finally:
            if undone is not None:
                undone()
        return record

    def ready(self) -> list[str]:
        """Return the names of the files that are kept."""
        return sorted(path.name for path in self.folder.ready.iterdir())

    @contextmanager
    def receiving(self, metrics: ReceiverMetrics) -> Iterator[StoreHandler]:
        """Run a receiver over this spool for the length of a block, in the running loop."""
        loop, committer = asyncio.get_running_loop(), GroupCommitter(self._syncing.board, RECEIVER)
        loop.add_reader(committer.answers, committer.answered)
        receiver = StoreHandler(self.folder, self.capacity, self.announcer, committer, metrics, disk=self.disk)
        try:
            yield receiver
        finally:
            receiver.close()
            loop.remove_reader(committer.answers)

    def close(self) -> None:
        """End the processes that this stands for."""
        self.committer.close()
        self._syncing.close()
        self.disk.close(self.ready_descriptor)
        os.close(self.slots_page)
        if self.slots is not None:
            self.slots.close()

    def _wait_for(self, ended: int) -> None:
        # This waits for the commit worker's answers, and does not end it.
        self.committer.close()
        assert len(self._ended) == ended
