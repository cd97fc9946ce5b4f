"""The few disk operations durability is made of: one seam, so a test can order, fail or cut each of them."""

import os
from pathlib import Path


class Disk:
    """A POSIX file system; every method blocks and raises `OSError`."""

    def create(self, path: Path) -> int:
        """Create a file only its owner can read, and return its descriptor."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write all of the data."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    def sync(self, descriptor: int) -> None:
        """Return once the file's bytes are on the disk (fsync)."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close the file."""
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the file system, in one step."""
        source.rename(target)

    def sync_folder(self, folder: Path) -> None:
        """Return once the folder's entries are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is gone already is no error."""
        path.unlink(missing_ok=True)

    def free_bytes(self, folder: Path) -> int:
        """Return the bytes an ordinary user can still write."""
        stats = os.statvfs(folder)
        return stats.f_bavail * stats.f_frsize
