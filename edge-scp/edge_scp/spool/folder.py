"""The spool's folder and who may use it.

ready/       whole instances, `<when, ns>-<random>.dcm`, so names sort by age; those still arriving are
             files without names on the same file system, and vanish with the process that writes them
slots        one file of prepared places for instances that fit (`slots`)
quarantine/  what could not be trusted or stored, each with a `.reason`
lock         held by the processes of the one edge that owns the folder
"""

import errno
import fcntl
import os
import time
from pathlib import Path

from bucky.errors import SettingsError

# The receivers of an edge that was killed end at once, but not before it.
_LOCK_SECONDS = 5.0


class SpoolFolder:
    """The paths of a spool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ready = path / "ready"
        self.slots = path / "slots"
        self.quarantine = path / "quarantine"

    def make(self) -> None:
        """Make the folders; raise `SettingsError` when that or keeping nameless files there is impossible."""
        try:
            for folder in (self.ready, self.quarantine):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.ready, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
            for folder in (self.path, self.ready):
                self.sync(folder)
        except OSError as error:
            hint = "; use a local file system such as ext4 or xfs" if error.errno == errno.EOPNOTSUPP else ""
            raise SettingsError(f"BUCKY_SPOOL_DIR: cannot use {self.path}: {error.strerror}{hint}") from error

    def lock(self, wait_seconds: float = _LOCK_SECONDS) -> int:
        """Take the folder and return a descriptor that holds it; processes that inherit it hold it too.

        Raises `SettingsError` when another edge still has it after a time.
        """
        descriptor = os.open(self.path / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in {errno.EWOULDBLOCK, errno.EACCES} and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                os.close(descriptor)
                raise SettingsError(
                    f"BUCKY_SPOOL_DIR: another edge uses {self.path}; stop it or choose another folder"
                ) from error
            return descriptor

    @staticmethod
    def sync(folder: Path) -> None:
        """Return once a folder's entries are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
