"""Who may call next: urgent before routine, within the limits of a lane and of the whole function.

A lane is what shares a limit: the routine and the urgent consumer of one subject. When both of them hold a
batch, `URGENT_IN_A_ROW` urgent ones go before a routine one, so that routine never starves. The first call
of a lane needs no leave of the function's limit, so that a lane whose calls hang never delays another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

URGENT_IN_A_ROW = 4


@dataclass
class _Lane:
    in_flight: int = 0
    urgent_in_a_row: int = 0
    urgent: deque[asyncio.Future[None]] = field(default_factory=deque)
    routine: deque[asyncio.Future[None]] = field(default_factory=deque)

    def next(self) -> asyncio.Future[None] | None:
        """Take out whose turn it is."""
        for queue in (self.urgent, self.routine):
            while queue and queue[0].done():
                queue.popleft()  # it has stopped waiting
        if self.urgent and not (self.routine and self.urgent_in_a_row >= URGENT_IN_A_ROW):
            self.urgent_in_a_row = self.urgent_in_a_row + 1 if self.routine else 0
            return self.urgent.popleft()
        self.urgent_in_a_row = 0
        return self.routine.popleft() if self.routine else None


class Turns:
    """The turns of one function: so many calls at once in each lane, and so many in all."""

    def __init__(self, in_lane: int, in_all: int | None = None) -> None:
        self._in_lane, self._in_all = in_lane, in_all
        self._lanes: dict[str, _Lane] = {}
        self.in_flight = 0

    @asynccontextmanager
    async def turn(self, lane: str, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn in this lane, and hold it."""
        waiting = asyncio.get_running_loop().create_future()
        line = self._lanes.setdefault(lane, _Lane())
        (line.urgent if urgent else line.routine).append(waiting)
        self._grant()
        try:
            await waiting
            yield
        finally:
            if waiting.done() and not waiting.cancelled():
                line.in_flight -= 1
                self.in_flight -= 1
            waiting.cancel()
            self._grant()

    def _grant(self) -> None:
        """Give every turn there is, to the lanes with the fewest calls in flight first."""
        lanes = [lane for lane in self._lanes.values() if lane.urgent or lane.routine]
        while lanes:
            lane = min(lanes, key=lambda one: one.in_flight)
            waiting = lane.next() if self._may_call(lane) else None
            if waiting is None:
                lanes.remove(lane)
                continue
            lane.in_flight += 1
            self.in_flight += 1
            waiting.set_result(None)

    def _may_call(self, lane: _Lane) -> bool:
        if lane.in_flight == 0:
            return True
        return lane.in_flight < self._in_lane and (self._in_all is None or self.in_flight < self._in_all)
