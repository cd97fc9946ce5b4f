"""Sending to a mounted directory: files that appear whole, synced, or not at all."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from bucky.dicom.part10 import CHUNK_BYTES
from bucky.dimse.outgoing import Outcome, Outgoing, StoreResult, not_sent
from bucky.errors import DestinationUnavailable, Permanent, Retriable
from bucky.forwarding.in_units import Unit, in_units
from bucky.forwarding.part10_file import Part10File, is_corrected_by, place
from bucky.forwarding.secrets import Secrets
from bucky.routing.destinations import FolderDestination
from bucky.runtime.tls import MISCONFIGURED_RETRY_SECONDS


class FolderSender:
    """Writes one file after the other."""

    def __init__(self, destination: FolderDestination, _secrets: Secrets) -> None:
        self._destination = destination

    def send(self, items: Sequence[Outgoing], *, seconds: float = math.inf) -> list[StoreResult]:
        """Write every item."""

        def write(unit: Unit) -> dict[int, StoreResult]:
            return {index: self._sent(items[index]) for index in unit}

        return in_units([(index,) for index in range(len(items))], write, at_once=1, seconds=seconds)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _sent(self, item: Outgoing) -> StoreResult:
        self._check_mounted()
        try:
            path = self._destination.folder / place(self._destination.path, item)
            self._check_within(path)
            file = Part10File.of(item)
        except (Permanent, Retriable) as error:
            return not_sent(error)
        with file:
            try:
                return self._written(item, file, path)
            except OSError as error:
                # Whatever the file system says (full, read-only, gone), somebody can put it right.
                raise DestinationUnavailable(
                    f"the folder {self._destination.folder} did not take a file: {error.strerror}"
                ) from error

    def _check_mounted(self) -> None:
        folder = self._destination.folder
        if not folder.is_dir():
            raise DestinationUnavailable(f"there is no folder {folder}: mount or make it", MISCONFIGURED_RETRY_SECONDS)
        if self._destination.mounted and not folder.is_mount():
            raise DestinationUnavailable(f"nothing is mounted at {folder}: mount it", MISCONFIGURED_RETRY_SECONDS)

    def _check_within(self, path: Path) -> None:
        if not path.parent.resolve().is_relative_to(self._destination.folder.resolve()):
            raise DestinationUnavailable(
                f"a link in {self._destination.folder} leads out of it: remove it, or name its target as the folder",
                MISCONFIGURED_RETRY_SECONDS,
            )

    def _written(self, item: Outgoing, file: Part10File, path: Path) -> StoreResult:
        _make_folders(self._destination.folder, path.parent)
        if path.exists():
            if _same(file, path):
                _sync_folder(path.parent)  # its name may not have reached the disk before a crash
                return StoreResult(Outcome.STORED, answer="already there")
            if self._destination.existing == "refuse" and not _is_corrected(item, path):
                return StoreResult(Outcome.REFUSED, "another file is there by that name, and is not overwritten")
        # Always the same name, so that a crash leaves nothing that the next attempt does not use.
        draft = path.with_name(f".{path.name}.bucky-part")
        with draft.open("wb") as target:
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        draft.replace(path)
        _sync_folder(path.parent)
        return StoreResult(Outcome.STORED, answer="written and synced")


def _is_corrected(item: Outgoing, path: Path) -> bool:
    with path.open("rb") as there:
        return is_corrected_by(item, there)


def _make_folders(root: Path, folder: Path) -> None:
    """Make what is missing below the root, and sync the names of what was made."""
    if folder == root or folder.is_dir():
        return
    _make_folders(root, folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _same(file: Part10File, path: Path) -> bool:
    file.seek(0)
    with path.open("rb") as there:
        if os.fstat(there.fileno()).st_size != file.size:
            return False
        while chunk := file.read(CHUNK_BYTES):
            if there.read(len(chunk)) != chunk:
                return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
