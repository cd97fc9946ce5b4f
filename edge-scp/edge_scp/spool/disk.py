"""The few disk operations durability is made of: one seam, so a test can order, fail or cut each of them."""

import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE = 2


class Disk:
    """A Linux file system; every method blocks and raises `OSError`."""

    def create(self, folder: Path) -> int:
        """Return the descriptor of a new file that has no name yet, and is gone if it never gets one."""
        return os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, *pieces: bytes | memoryview) -> None:
        """Write all of the pieces, one after the other."""
        written = os.writev(descriptor, pieces)
        if written < sum(map(len, pieces)):
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def start_writing_back(self, descriptor: int, offset: int, length: int) -> None:
        """Let the disk begin with these bytes, so that a sync later finds little left to do."""
        _checked(_LIBC.sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE))

    def link(self, descriptor: int, folder: int, name: str) -> None:
        """Give a nameless file its name in a folder, in one step; the folder is an open descriptor."""
        os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder, follow_symlinks=True)

    def sync_file_system(self, descriptor: int) -> None:
        """Return once all of a file system is on the disk (syncfs).

        It reports what went wrong since the descriptor was opened (Linux 5.8): keep it open.
        """
        _checked(_LIBC.syncfs(descriptor))

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the file system, in one step."""
        source.rename(target)

    def copy(self, source: BinaryIO, target: Path) -> None:
        """Write what is read to a file, and return when it is on the disk."""
        with target.open("wb") as file:
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error."""
        path.unlink(missing_ok=True)

    def free_bytes(self, folder: Path) -> int:
        """Return the bytes an ordinary user can still write."""
        stats = os.statvfs(folder)
        return stats.f_bavail * stats.f_frsize

    def open_folder(self, folder: Path) -> int:
        """Return a descriptor of a folder."""
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
