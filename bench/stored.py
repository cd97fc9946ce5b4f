"""What a receiver stored: counted and compared with what was sent, then emptied the same way for all."""

import mmap
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bench.cargo import UID_DIGITS, UID_ROOT, Cargo

SLOTS = "slots"
SLOT_BYTES, HEADER_BYTES = 1024 * 1024, 4096
_LABEL = struct.Struct("<8sQQI")
COMPARED_FILES = 6
COMPARED_BYTES = 256 * 1024 * 1024
# What a file may hold beside its data set: preamble, file meta information, a receiver's own record.
FILE_OVERHEAD_BYTES = 8192
# Orthanc's database lies beside its instances.
_NOT_INSTANCES = "index"
_STEP = 1 << 22


@dataclass(frozen=True)
class Kept:
    """Where an instance is kept: a part of a file in bytes, with all that a receiver adds to a data set."""

    path: Path
    start: int
    size: int


def instances(folder: Path, cargo: Cargo) -> list[Kept]:
    """Return what can hold an instance of this cargo, wherever under the folder it is."""
    found = [kept for path, size in _walk(folder) for kept in _kept_in(path, size)]
    return [kept for kept in found if kept.size >= cargo.data_set_bytes]


def fault(folder: Path, cargo: Cargo, expected: int) -> str:
    """Return what is wrong with what was stored, or an empty string."""
    kept = instances(folder, cargo)
    if len(kept) != expected:
        return f"{expected} instances were acknowledged, {len(kept)} are stored"
    if any(each.size > cargo.data_set_bytes + FILE_OVERHEAD_BYTES for each in kept):
        return "a stored file is longer than what was sent"
    budget = COMPARED_BYTES // cargo.data_set_bytes
    for each in Random(0).sample(kept, min(len(kept), COMPARED_FILES, max(1, budget))):
        if not holds(each, cargo):
            return "a stored data set differs from what was sent"
    return ""


def empty(folder: Path) -> None:
    """Truncate every file: deleting instead would change the file system under the next run.

    Bucky's slots are emptied as it does that itself, and kept beside the folder for its next run.
    """
    for path, size in _walk(folder):
        if path.name == SLOTS:
            _empty_slots(path, size)
            path.rename(folder.parent / SLOTS)
        elif size:
            os.truncate(path, 0)


def _kept_in(path: Path, size: int) -> Iterator[Kept]:
    if path.name.startswith(_NOT_INSTANCES):
        return
    if path.name != SLOTS:
        yield Kept(path, 0, size)
        return
    for start, header in _labels(path, size):
        if any(header):
            _magic, _when, length, _checksum = _LABEL.unpack_from(header)
            yield Kept(path, start + HEADER_BYTES, length)


def _empty_slots(path: Path, size: int) -> None:
    used = [start for start, header in _labels(path, size) if any(header)]
    with path.open("r+b", buffering=0) as file:
        for start in used:
            os.pwrite(file.fileno(), bytes(HEADER_BYTES), start)
        os.fsync(file.fileno())
        # What a run without syncs left in memory is not the next one's.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _labels(path: Path, size: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for start in range(0, size - SLOT_BYTES + 1, SLOT_BYTES):
            yield start, os.pread(file.fileno(), _LABEL.size, start)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat().st_size


def holds(kept: Kept, cargo: Cargo) -> bool:
    """Tell whether there is a data set of this cargo, byte for byte."""
    before_uid = cargo.head[: cargo.head_uid_at]
    pattern = re.compile(re.escape(before_uid) + rb"(\d{%d})" % UID_DIGITS)
    with (
        kept.path.open("rb") as file,
        mmap.mmap(file.fileno(), kept.size, access=mmap.ACCESS_READ, offset=kept.start) as content,
    ):
        match = pattern.search(content, 0, FILE_OVERHEAD_BYTES)
        if match is None:
            return False
        head = cargo.head_of(UID_ROOT + match[1].decode())
        body_at = match.start() + len(head)
        if content[match.start() : body_at] != head or len(content) < body_at + cargo.body_bytes:
            return False
        return all(
            content[body_at + start : body_at + start + size] == cargo.body(start, size)
            for start in range(0, cargo.body_bytes, _STEP)
            for size in (min(_STEP, cargo.body_bytes - start),)
        )
