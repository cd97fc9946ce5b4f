"""What came out at a pipeline's end, compared byte for byte with what went in, and how long each instance took."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench import stored
from bench.cargo import UID_DIGITS, UID_ROOT, Cargo

_UID = re.compile(re.escape(UID_ROOT) + rf"(\d{{{UID_DIGITS}}})")
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Sending:
    """When one instance was sent and when its sender was told success, in seconds of the clock on the wall."""

    began: float
    answered: float

    @classmethod
    def read(cls, answers: Path) -> dict[str, Self]:
        """Return what a sender wrote, by the changing digits of the SOP Instance UIDs."""
        lines = (line.split() for line in answers.read_text().splitlines())
        return {digits: cls(float(began), float(answered)) for digits, began, answered in lines}


def arrived(folder: Path, cargo: Cargo) -> dict[str, list[stored.Kept]]:
    """Return the files at a destination by the digits in their names."""
    found: dict[str, list[stored.Kept]] = {}
    for file in stored.instances(folder, cargo):
        match = _UID.search(file.path.name)
        found.setdefault(match[1] if match else file.path.name, []).append(file)
    return found


def wait_for(count: Callable[[], int], expected: int, patience: float) -> bool:
    """Wait until a number have arrived; return False when none came for `patience` seconds."""
    seen, since = -1, time.monotonic()
    while (now := count()) < expected:
        if now > seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > patience:
            return False
        time.sleep(POLL_SECONDS)
    return True


def fault(folder: Path, cargo: Cargo, sent: set[str]) -> str:
    """Return what is wrong with what arrived, or an empty string: every instance once, every byte of it."""
    files = arrived(folder, cargo)
    if files.keys() != sent:
        lost, strange = len(sent - files.keys()), len(files.keys() - sent)
        return f"of {len(sent)} acknowledged instances {lost} did not arrive, and {strange} arrived that were not sent"
    for each in files.values():
        for file in each:
            if file.size > cargo.data_set_bytes + stored.FILE_OVERHEAD_BYTES:
                return "a file at the destination is longer than what was sent"
            if not stored.holds(file, cargo):
                return "a data set at the destination differs from what was sent"
    return ""


def latencies(folder: Path, cargo: Cargo, sent: dict[str, Sending]) -> list[float]:
    """Return the seconds from each success told to the sender to the last write of its file at the destination.

    The destination answers success right after that. Resolution: the kernel's tick, a few milliseconds.
    """
    files = arrived(folder, cargo)
    return sorted(max(0.0, min(map(_written, files[digits])) - one.answered) for digits, one in sent.items())


def last_arrival(folder: Path, cargo: Cargo) -> float:
    """Return when the last file was written, in seconds of the clock on the wall."""
    return max(_written(path) for paths in arrived(folder, cargo).values() for path in paths)


def _written(file: stored.Kept) -> float:
    return file.path.stat().st_mtime
