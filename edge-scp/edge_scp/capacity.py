"""How much the spool may hold: room is reserved before a byte is written, so it is never overrun."""

import threading
from collections.abc import Callable

from bucky.errors import Retriable


class SpoolFull(Retriable):
    """There is no room for another instance until some have been released."""


class Capacity:
    """The spool's account of bytes held and promised; safe to use from many threads."""

    def __init__(self, max_bytes: int, min_free_bytes: int, free_bytes: Callable[[], int]) -> None:
        self._max = max_bytes
        self._min_free = min_free_bytes
        self._free_bytes = free_bytes
        self._lock = threading.Lock()
        self._held = 0
        self._unwritten = 0

    @property
    def held(self) -> int:
        """Return the bytes held or promised."""
        return self._held

    @property
    def has_room(self) -> bool:
        """Tell whether even the smallest instance would be taken."""
        with self._lock:
            return self._obstacle(1) is None

    def adopt(self, size: int) -> None:
        """Count a file that is there already, whether there is room or not."""
        with self._lock:
            self._held += size

    def reserve(self, size: int) -> None:
        """Promise room for bytes about to be written, or raise `SpoolFull`."""
        with self._lock:
            obstacle = self._obstacle(size)
            if obstacle is not None:
                raise SpoolFull(obstacle)
            self._held += size
            self._unwritten += size

    def written(self, size: int) -> None:
        """Note that reserved bytes are now in a file, where the file system counts them."""
        with self._lock:
            self._unwritten -= size

    def cancel(self, size: int) -> None:
        """Give back bytes that were reserved and not written."""
        with self._lock:
            self._held -= size
            self._unwritten -= size

    def release(self, size: int) -> None:
        """Give back the bytes of a file that was removed."""
        with self._lock:
            self._held -= size

    def _obstacle(self, size: int) -> str | None:
        if self._held + size > self._max:
            return "The spool is full; send again later"
        if self._free_bytes() - self._unwritten - size < self._min_free:
            return "The spool's disk is nearly full; send again later"
        return None
