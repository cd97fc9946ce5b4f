"""What a receiver stored: counted and compared with what was sent, then emptied the same way for all."""

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.bench.cargo import UID_DIGITS, UID_ROOT, Cargo

COMPARED_FILES = 6
COMPARED_BYTES = 256 * 1024 * 1024
# What a file may hold beside its data set: preamble, file meta information, a receiver's own record.
FILE_OVERHEAD_BYTES = 8192
# Orthanc's database lies beside its instances.
_NOT_INSTANCES = "index"
_STEP = 1 << 22


def files(folder: Path, cargo: Cargo) -> list[Path]:
    """Return the files that can hold an instance of this cargo, wherever under the folder they are."""
    found = (path for path, size in _walk(folder) if size >= cargo.data_set_bytes)
    return [path for path in found if not path.name.startswith(_NOT_INSTANCES)]


def fault(folder: Path, cargo: Cargo, expected: int) -> str:
    """Return what is wrong with what was stored, or an empty string."""
    kept = files(folder, cargo)
    if len(kept) != expected:
        return f"{expected} instances were acknowledged, {len(kept)} are stored"
    for path in kept:
        if path.stat().st_size > cargo.data_set_bytes + FILE_OVERHEAD_BYTES:
            return "a stored file is longer than what was sent"
    budget = COMPARED_BYTES // cargo.data_set_bytes
    for path in Random(0).sample(kept, min(len(kept), COMPARED_FILES, max(1, budget))):
        if not holds(path, cargo):
            return "a stored data set differs from what was sent"
    return ""


def empty(folder: Path) -> None:
    """Truncate every file: deleting instead would change the file system under the next run."""
    for path, size in _walk(folder):
        if size:
            os.truncate(path, 0)


def _walk(folder: Path) -> Iterator[tuple[Path, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat().st_size


def holds(path: Path, cargo: Cargo) -> bool:
    """Tell whether a file holds a data set of this cargo, byte for byte."""
    before_uid = cargo.head[: cargo.head_uid_at]
    pattern = re.compile(re.escape(before_uid) + rb"(\d{%d})" % UID_DIGITS)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
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
