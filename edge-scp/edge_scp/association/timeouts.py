"""How long a peer may take, and the one timer of a loop that looks at the clock for all its connections.

ARTIM bounds the time before an association and after it (PS3.8 §9.1.5); these bound the time between. None is
renewed by a byte, only by work done, so a peer that sends one byte a second holds no place.
"""

import asyncio
from collections.abc import Callable

from edge_scp.association.limits import AssociationLimits


class Patience:
    """What one established association may still take; the clock is the loop's, in seconds."""

    __slots__ = ("_clock", "_limits", "_quiet_since", "_window_began", "_window_bytes")

    def __init__(self, limits: AssociationLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._quiet_since = self._window_began = clock()
        self._window_bytes = 0

    def message_ended(self) -> None:
        """Begin to wait for the next message."""
        self._quiet_since = self._clock()

    def data_set_begins(self) -> None:
        """Begin to wait for what is to be received."""
        self._window_bytes = 0
        self._window_began = self._clock()

    def follow(self, since: float) -> None:
        """Learn that a message ended or a data set began at some time; what is known already changes nothing."""
        self._quiet_since = max(self._quiet_since, since)
        if since > self._window_began:
            self._window_began, self._window_bytes = since, 0

    def lost_between_messages(self, now: float) -> str | None:
        """Say that no whole command set has come for too long, if so."""
        return "idle for too long" if now - self._quiet_since > self._limits.idle_seconds else None

    def lost_within_data_set(self, now: float, received: int) -> str | None:
        """Say that too little of a data set has come within half the idle time, if so; `received` is all of it."""
        elapsed = now - self._window_began
        if elapsed < self._limits.idle_seconds / 2:
            return None
        if received - self._window_bytes < max(1.0, elapsed * self._limits.min_bytes_per_second):
            return "the data set comes too slowly"
        self._window_began, self._window_bytes = now, received
        return None


class TimeoutSweep:
    """Calls what is registered with the loop's time, at intervals; no timer runs while nothing is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._looks: set[Callable[[float], None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, look: Callable[[float], None]) -> None:
        """Call `look` from now on."""
        self._looks.add(look)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def remove(self, look: Callable[[float], None]) -> None:
        """Call it no more."""
        self._looks.discard(look)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._sweep) if self._looks else None
        now = self._loop.time()
        for look in tuple(self._looks):
            look(now)
