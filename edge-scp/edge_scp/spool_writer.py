"""One instance on its way to the disk: begun, written piece by piece, committed or abandoned."""

import errno
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from bucky.errors import Retriable
from bucky.identity import Identity
from bucky.part10 import FileMeta, file_header
from edge_scp.capacity import Capacity, SpoolFull
from edge_scp.disk import Disk
from edge_scp.record import Record

_GROWTH = 4 * 1024 * 1024
_FOOTER_ALLOWANCE = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}


class SpoolFailed(Retriable):
    """The spool's disk answered an error, so nothing may be acknowledged."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How an instance came: the association, when, and the trace it belongs to."""

    calling_aet: str
    called_aet: str
    source_address: str
    association_id: str
    received_at: datetime
    traceparent: str


class SpoolWriter:
    """A file in `incoming/`; leaving its `with` block without a commit deletes it.

    Every method blocks; raises `SpoolFull` or `SpoolFailed`, after which nothing was acknowledged.
    """

    def __init__(
        self,
        disk: Disk,
        capacity: Capacity,
        *,
        incoming: Path,
        ready: Path,
        meta: FileMeta,
        expected_bytes: int,
        on_commit: Callable[[int], None],
    ) -> None:
        self._disk, self._capacity = disk, capacity
        self._incoming, self._ready = incoming, ready
        self._meta = meta
        self._on_commit = on_commit
        self._digest = hashlib.sha256()
        self._reserved = self._written = 0
        self._committed = False
        header = file_header(meta)
        self._data_set_offset = len(header)
        self._reserve(len(header) + expected_bytes + _FOOTER_ALLOWANCE)
        try:
            self._descriptor: int | None = disk.create(incoming)
        except OSError as error:
            self._capacity.cancel(self._reserved)
            raise _refused(error) from error
        try:
            self._append(header)
        except Retriable:
            self.abandon()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self.abandon()

    def write(self, data: bytes | memoryview) -> None:
        """Append data set bytes as they were received."""
        self._digest.update(data)
        self._append(data)

    def commit(self, identity: Identity, provenance: Provenance) -> Record:
        """Return once the instance would survive a power cut; only then may it be acknowledged."""
        record = Record(
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=self._meta.transfer_syntax_uid,
            sha256=self._digest.hexdigest(),
            object_size=self._written,
            data_set_offset=self._data_set_offset,
            calling_aet=provenance.calling_aet,
            called_aet=provenance.called_aet,
            source_address=provenance.source_address,
            association_id=provenance.association_id,
            received_at=provenance.received_at,
            traceparent=provenance.traceparent,
        )
        self._append(record.footer())
        try:
            self._make_durable()
        except OSError as error:
            raise _refused(error) from error
        self._committed = True
        self._capacity.cancel(self._reserved - self._written)
        self._on_commit(self._written)
        return record

    def abandon(self) -> None:
        """Delete what was written; nobody was told that it was kept."""
        try:
            self._close()
            for path in (self._incoming, self._ready):
                self._disk.unlink(path)
        finally:
            self._capacity.cancel(self._reserved - self._written)
            self._capacity.release(self._written)

    def _make_durable(self) -> None:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the spool file is closed")
        self._disk.sync(self._descriptor)
        self._close()
        self._disk.rename(self._incoming, self._ready)
        self._disk.sync_folder(self._ready.parent)

    def _append(self, data: bytes | memoryview) -> None:
        if self._descriptor is None:
            raise SpoolFailed("The spool file is closed")
        shortfall = self._written + len(data) - self._reserved
        if shortfall > 0:
            self._reserve(max(shortfall, _GROWTH))
        try:
            self._disk.write(self._descriptor, data)
        except OSError as error:
            raise _refused(error) from error
        self._capacity.written(len(data))
        self._written += len(data)

    def _reserve(self, size: int) -> None:
        self._capacity.reserve(size)
        self._reserved += size

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._disk.close(descriptor)


def _refused(error: OSError) -> SpoolFull | SpoolFailed:
    if error.errno in _FULL:
        return SpoolFull("The spool's disk is full; send again later")
    return SpoolFailed("The spool's disk failed; send again later")
