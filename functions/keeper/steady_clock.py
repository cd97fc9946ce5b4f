"""How long ago something was, by a clock that may be set: a jump of it is not time that passed."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucky.cloudevents import utc_now

JUMP_SECONDS = 60.0
"""A difference that grows by more than this between two looks is a clock that was set, or a machine that slept."""


@dataclass(frozen=True, slots=True)
class _Jump:
    """The wall clock went from one time to another in no time."""

    before: datetime
    after: datetime


class SteadyClock:
    """Compares the wall clock with the monotonic one at each look; `running` is the monotonic seconds since its start.

    A jump while nobody looked, such as before a restart, is not seen: who decides by age waits a while first.
    """

    def __init__(self, wall: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._started = self._seen_at = monotonic()
        self._seen = wall()
        self._jumps: list[_Jump] = []

    def look(self) -> datetime:
        """Return the time on the wall; to be called at least every minute or so."""
        wall, monotonic = self._wall(), self._monotonic()
        expected = self._seen + timedelta(seconds=monotonic - self._seen_at)
        if abs((wall - expected).total_seconds()) > JUMP_SECONDS:
            self._jumps.append(_Jump(expected, wall))
        self._seen, self._seen_at = wall, monotonic
        return wall

    def running(self) -> float:
        """Return for how many seconds this clock has been looked at."""
        return self._monotonic() - self._started

    def ago(self, seconds: float) -> datetime:
        """Return the wall time before which everything is older than a number of seconds that really passed.

        After a jump it is the earlier one of two answers: what is old only by the clock is not old.
        """
        now, left = self.look(), timedelta(seconds=seconds)
        until, earliest = now, now - left
        for jump in reversed(self._jumps):
            passed = until - jump.after
            if passed >= left:
                break
            left, until = left - max(passed, timedelta()), jump.before
            earliest = min(earliest, until - left)
        return earliest

    def passed(self, since: datetime) -> float:
        """Return how many seconds really passed since a wall time."""
        now = self.look()
        jumped = sum((jump.after - jump.before for jump in self._jumps if since <= jump.before), timedelta())
        return max(0.0, (now - since - max(jumped, timedelta())).total_seconds())
