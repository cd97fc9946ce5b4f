"""Memory kept warm between runs.

The files of a run fill page cache. In a virtual machine that gives free memory back to its host (free page
reporting), each page must first be fetched again: measured, that costs ten times what receiving does. So as much
memory as a run's files need is held, given back just before the run, and taken again right after it.
"""

import mmap

SIZE = 2048 * 1024**2
_PART = 256 * 1024**2
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE (madvise(2)), Linux 5.14; Python has no name for it


class Ballast:
    """Memory held in parts."""

    def __init__(self) -> None:
        self._parts: list[mmap.mmap] = []

    def hold(self) -> None:
        """Take what is not held, and touch all of it."""
        while len(self._parts) < SIZE // _PART:
            part = mmap.mmap(-1, _PART, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            part.madvise(mmap.MADV_HUGEPAGE)
            part.madvise(_POPULATE_WRITE)
            self._parts.append(part)

    def release(self, size: int) -> None:
        """Give at least a number of bytes back, warm, for page cache to take."""
        for _ in range(min(len(self._parts), size // _PART + 1)):
            self._parts.pop().close()
