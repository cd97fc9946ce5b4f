"""What a process and all it started use of the machine, from /proc (proc(5))."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.05
CALM_SECONDS, CALM_SHARE = 0.25, 0.10


def tree(root: int) -> list[int]:
    """Return a process and its descendants, zombies too."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        # It may end while it is looked at.
        with suppress(OSError):
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    waiting += map(int, children.read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """Return user and system time of the tree, with that of children already gone."""
    return sum(sum(_times(pid)) for pid in tree(root))


def own_seconds(pid: int) -> float:
    """Return user and system time of one process alone; 0 once it is gone."""
    user, system, _children_user, _children_system = _times(pid)
    return user + system


def user_seconds(root: int) -> float:
    """Return user time alone of the tree, with that of children already gone."""
    return sum(times[0] + times[2] for times in map(_times, tree(root)))


def resident_bytes(root: int) -> int:
    """Return the sum of what each process of the tree has resident; pages they share count for each."""
    total = 0
    for pid in tree(root):
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        except OSError:
            continue
    return total


def machine_user_seconds() -> float:
    """Return user time of all processes of the machine."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[1]) + int(fields[2])) / TICKS


def wait_for_calm(seconds: float) -> None:
    """Wait until other programs leave the cores alone, or for a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        began, before = time.monotonic(), machine_user_seconds()
        time.sleep(CALM_SECONDS)
        if machine_user_seconds() - before <= CALM_SHARE * (time.monotonic() - began) * (os.cpu_count() or 1):
            return


def _times(pid: int) -> tuple[float, float, float, float]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0, 0
    user, system, children_user, children_system = (int(field) / TICKS for field in fields[11:15])
    return user, system, children_user, children_system


class PeakMemory:
    """Samples a tree's resident memory for the length of a block."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.before = resident_bytes(root)
        self.peak = self.before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, resident_bytes(self._root))


class Window:
    """The CPU a tree used, and what share of the machine others took, since this was made."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._began = time.monotonic()
        self._cpu = cpu_seconds(root)
        self._user = user_seconds(root)
        self._machine_user = machine_user_seconds()

    def cpu_seconds(self) -> float:
        """Return CPU seconds used so far."""
        return cpu_seconds(self._root) - self._cpu

    def seconds(self) -> float:
        """Return wall seconds so far."""
        return time.monotonic() - self._began

    def others_share(self, senders_user_seconds: float) -> float:
        """Return the share of all cores that other programs' own code took, from 0 to 1."""
        ours = user_seconds(self._root) - self._user + senders_user_seconds
        others = machine_user_seconds() - self._machine_user - ours
        return max(0.0, others / (self.seconds() * (os.cpu_count() or 1)))
