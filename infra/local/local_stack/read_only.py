"""A broker whose disk was full: its streams refuse writes until it is started again, however much room there is since.

nats-server says so on its monitoring page, and only there; everything else about it looks well.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from bucky.runtime.tls import trust

ENOUGH_FREE_BYTES = 64 * 1024**2
# As long as this it must have said so, with room on its disk: whoever frees a disk does it in several steps.
PATIENCE_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 600.0
_ANSWER_SECONDS = 1.0
_SIGNS = ("write error", "no space left", "jetstream disabled", "jetstream is not enabled", "jetstream not enabled")


def refuses_writes(monitor_url: str) -> Callable[[], str]:
    """Return a check that returns what nats-server says of a stream that refuses writes, or nothing."""

    url = f"{monitor_url}/healthz"

    def check() -> str:
        try:
            said = httpx.get(url, timeout=_ANSWER_SECONDS, trust_env=False, verify=trust(url))
        except httpx.HTTPError:
            return ""
        return said.text if not said.is_success and any(sign in said.text.lower() for sign in _SIGNS) else ""

    return check


def free_bytes(folder: Path) -> int:
    """Return the room on a folder's file system, or none when it cannot be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


@dataclass
class ReadOnlyWatch:
    """Says when to start a broker again: it has refused writes for a while, and there is room for them."""

    refuses: Callable[[], str]
    free: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None
    _pause: float = 0.0
    _restarted_at: float | None = None

    def is_due(self) -> bool:
        """Look; return whether it is to be started again now, with growing pauses when that does not help."""
        now = self.clock()
        if not self.refuses() or self.free() < ENOUGH_FREE_BYTES:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        since_last = LONGEST_PAUSE_SECONDS if self._restarted_at is None else now - self._restarted_at
        if now - self._since < PATIENCE_SECONDS or since_last < self._pause:
            return False
        helped = since_last >= 2 * LONGEST_PAUSE_SECONDS or self._restarted_at is None
        self._pause = FIRST_PAUSE_SECONDS if helped else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        self._restarted_at, self._since = now, None
        return True
