"""One instance on its way to the disk: a file without a name, which gets one when it is whole.

A file that never gets its name (refused, aborted, or its process killed) is gone by itself.
"""

import contextlib
import errno
import hashlib
import os
import time
from pathlib import Path

from bucky.dicom.part10 import FileMeta, file_header
from bucky.errors import Retriable
from edge_scp.spool.capacity import Capacity, SpoolFull
from edge_scp.spool.disk import Disk

# An instance is written back as it arrives, so that the sync at its end, which others share, is short: in steps of
# so many bytes, and of a growing part of a long instance.
_WRITE_BACK = 192 * 1024
_WRITE_BACK_PART = 8
_FULL = {errno.ENOSPC, errno.EDQUOT}


class SpoolFailed(Retriable):
    """The spool's disk answered an error, so nothing may be acknowledged."""


class SpoolFile:
    """A file that takes a DICOM file's bytes and counts them against the spool's capacity.

    Raises `SpoolFull` or `SpoolFailed`, after which it is to be discarded.
    """

    def __init__(self, disk: Disk, capacity: Capacity, folder: Path, meta: FileMeta) -> None:
        self._disk, self._capacity, self._folder = disk, capacity, folder
        self.name = ""
        self._header = file_header(meta)
        self._digest = hashlib.sha256()
        self._written_back = 0
        self.data_set_offset = self.size = len(self._header)
        capacity.admit(self.size)
        try:
            self.descriptor = disk.create(folder)
        except BaseException as error:
            capacity.give_back(self.size)
            if isinstance(error, OSError):
                raise refused(error) from error
            raise

    @property
    def sha256(self) -> str:
        """Return the digest of the data set bytes so far."""
        return self._digest.hexdigest()

    def write(self, *fragments: memoryview) -> None:
        """Append data set bytes as they were received."""
        size = 0
        for fragment in fragments:
            self._digest.update(fragment)
            size += len(fragment)
        self._capacity.take(size)
        self.size += size
        try:
            if self._header:
                self._disk.write(self.descriptor, self._header, *fragments)
                self._header = b""
            else:
                self._disk.write(self.descriptor, *fragments)
            waiting = self.size - self._written_back
            if waiting >= _WRITE_BACK and waiting >= self.size // _WRITE_BACK_PART:
                self._disk.start_writing_back(self.descriptor, self._written_back, waiting)
                self._written_back = self.size
        except OSError as error:
            raise refused(error) from error

    def seal(self, footer: bytes, ready: int) -> None:
        """Append what says that the file is whole, and give it its name in the folder that is open as `ready`."""
        self._capacity.take(len(footer))
        self.size += len(footer)
        name = f"{time.time_ns():020d}-{os.urandom(8).hex()}.dcm"
        try:
            self._disk.write(self.descriptor, self._header, footer)
            self._disk.link(self.descriptor, ready, name)
        except OSError as error:
            raise refused(error) from error
        self.name = name

    def discard(self) -> None:
        """Remove the file and give its room back; without a name it is gone when it is closed."""
        self._capacity.give_back(self.size)
        if self.name:
            # A disk that cannot even do this keeps it: it is uploaded, although its sender was told to resend.
            with contextlib.suppress(OSError):
                self._disk.unlink(self._folder / self.name)
        self.close()

    def close(self) -> None:
        """Close the file; after the sync, or for a file that is not kept, an error in that means nothing."""
        with contextlib.suppress(OSError):
            self._disk.close(self.descriptor)


def refused(error: OSError) -> SpoolFull | SpoolFailed:
    """Return what a disk's error means for the instance."""
    if error.errno in _FULL:
        return SpoolFull("The spool's disk is full; send again later")
    return SpoolFailed(f"The spool's disk failed ({os.strerror(error.errno or errno.EIO)}); send again later")


def not_synced() -> SpoolFailed:
    """Return why a file is not acknowledged; the reason is the committer's, or its end, and may be another file's."""
    return SpoolFailed("The spool could not be synced; send again later")
