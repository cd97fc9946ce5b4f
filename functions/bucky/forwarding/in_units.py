"""A few units of a batch at once, and when to leave a destination alone."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bucky.dimse.outgoing import Outcome, StoreResult, not_sent
from bucky.errors import DestinationUnavailable

MAX_LOST_UNITS = 3
NO_TIME_LEFT = "there was no time left for it in its batch"

Unit = Sequence[int]
"""The indexes of the instances that are sent together."""
Work = Callable[[Unit], Mapping[int, StoreResult]]
"""Sends a unit; raises `DestinationUnavailable` when that is about the destination and not about an instance."""


def in_units(units: Sequence[Unit], work: Work, *, at_once: int, seconds: float) -> list[StoreResult]:
    """Carry out every unit; return the results in the order of the indexes.

    A destination that fails three units is left alone: the rest of the batch waits with the same reason.
    """
    batch = _Batch(units, work, time.monotonic() + seconds)
    threads = max(1, min(at_once, len(units)))
    if threads == 1:
        batch.carry_out()
    else:
        with ThreadPoolExecutor(threads, "forward") as pool:
            for thread in [pool.submit(batch.carry_out) for _ in range(threads)]:
                thread.result()
    return batch.in_order()


class _Batch:
    def __init__(self, units: Sequence[Unit], work: Work, deadline: float) -> None:
        self._waiting = deque(units)
        self._work = work
        self._deadline = deadline
        self._results: dict[int, StoreResult] = {}
        self._left = StoreResult(Outcome.UNAVAILABLE, NO_TIME_LEFT, begun=False)
        self._lost = 0
        self._changing = threading.Lock()

    def carry_out(self) -> None:
        """Take one unit after the other until there is none, no time, or no use."""
        while self._lost < MAX_LOST_UNITS and time.monotonic() <= self._deadline:
            try:
                unit = self._waiting.popleft()
            except IndexError:
                return
            try:
                results = self._work(unit)
            except DestinationUnavailable as error:
                with self._changing:
                    result, self._lost = not_sent(error), self._lost + 1
                    self._left = replace(result, unanswered=False, begun=False)
                    results = dict.fromkeys(unit, result)
            except BaseException:
                self._lost = MAX_LOST_UNITS  # a mistake of ours stops the other threads, and surfaces
                raise
            with self._changing:
                self._results.update(results)

    def in_order(self) -> list[StoreResult]:
        """Return every result."""
        for unit in self._waiting:
            self._results.update(dict.fromkeys(unit, self._left))
        return [self._results[index] for index in range(len(self._results))]
