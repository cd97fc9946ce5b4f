"""Keeps the list of what needs attention: asked for by many, made at most every other second."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from admin_api.attention import NONE, Attention, Known, needing_attention
from admin_api.dead_letters import DeadLetterBox
from admin_api.health import HealthBoard
from bucky.cloudevents import utc_now
from bucky.errors import Retriable
from bucky.index import Index, RoutingVersion

FRESH_SECONDS = 2.0
UNMATCHED_FOR = timedelta(hours=24)
# Rules that wait for a whole study may still match.
STABLE_AFTER = timedelta(minutes=15)
T = TypeVar("T")


class Watch:
    """Asks the parts, the index and the dead letters, and remembers since when each thing needs attention."""

    def __init__(self, index: Index, dead_letters: DeadLetterBox, board: HealthBoard) -> None:
        self._index, self._dead_letters, self._board = index, dead_letters, board
        self._first_seen: dict[tuple[str, str], datetime] = {}
        self._known: list[Attention] = []
        self._known_at = 0.0
        self._lock = asyncio.Lock()

    async def items(self) -> list[Attention]:
        """Return what needs attention, as it was at most two seconds ago."""
        async with self._lock:
            if not self._known_at or time.monotonic() - self._known_at > FRESH_SECONDS:
                self._known = self._dated(needing_attention(await self._look()))
                self._known_at = time.monotonic()
            return self._known

    def _dated(self, items: list[Attention]) -> list[Attention]:
        """Say since when what does not know that itself: since it was first seen."""
        now = utc_now()
        self._first_seen = {
            key: self._first_seen.get(key, now) for key in ((item.kind, item.subject) for item in items)
        }
        return [
            item if item.since else item.model_copy(update={"since": self._first_seen[item.kind, item.subject]})
            for item in items
        ]

    async def _look(self) -> Known:
        now = utc_now()
        health = await self._board.report()
        routing = await _if_there(lambda: asyncio.to_thread(self._index.routing))
        backlog = await _if_there(lambda: asyncio.to_thread(self._index.backlog))
        conflicts = await _if_there(lambda: asyncio.to_thread(self._index.conflicts_noticed))
        before = now - STABLE_AFTER if _waits(routing) else now
        since = now - UNMATCHED_FOR
        unmatched = await _if_there(lambda: asyncio.to_thread(self._index.unmatched, since, before))
        letters = await _if_there(self._dead_letters.by_function)
        found = routing, backlog or (), conflicts or NONE, unmatched or NONE, letters or {}
        return Known(now, health.parts, health.trouble, *found)


def _waits(routing: RoutingVersion | None) -> bool:
    return routing is not None and any(rule.enabled and rule.trigger != "instance" for rule in routing.document.rules)


async def _if_there(ask: Callable[[], Awaitable[T]]) -> T | None:
    """Return what is asked for, None while the index or the broker is away: the health of the parts says so."""
    try:
        return await ask()
    except Retriable:
        return None
