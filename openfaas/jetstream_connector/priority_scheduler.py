"""Who may call next: urgent before routine, within the limits of a group and of the whole function.

A group is what shares a limit: the routine and the urgent consumer of one subject. When both of them hold a
batch, `URGENT_IN_A_ROW` urgent ones go before a routine one, so that routine never starves. The first call
of a group needs no leave of the function's limit, so that a group whose calls hang never delays another.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

URGENT_IN_A_ROW = 4


@dataclass
class _Group:
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


class PriorityScheduler:
    """The turns of one function: a limit on calls at once in each group, and one in all."""

    def __init__(self, in_group: int, in_all: int | None = None) -> None:
        self._in_group, self._in_all = in_group, in_all
        self._groups: dict[str, _Group] = {}
        self.in_flight = 0

    @asynccontextmanager
    async def turn(self, group: str, *, urgent: bool) -> AsyncIterator[None]:
        """Wait for a turn in this group, and hold it."""
        waiting = asyncio.get_running_loop().create_future()
        line = self._groups.setdefault(group, _Group())
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
        """Give every turn there is, to the groups with the fewest calls in flight first."""
        groups = [group for group in self._groups.values() if group.urgent or group.routine]
        while groups:
            group = min(groups, key=lambda one: one.in_flight)
            waiting = group.next() if self._may_call(group) else None
            if waiting is None:
                groups.remove(group)
                continue
            group.in_flight += 1
            self.in_flight += 1
            waiting.set_result(None)

    def _may_call(self, group: _Group) -> bool:
        if group.in_flight == 0:
            return True
        return group.in_flight < self._in_group and (self._in_all is None or self.in_flight < self._in_all)
