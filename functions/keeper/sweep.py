"""Declares quiet studies and series stable, and sees to it that the broker has the events.

The timer is a column of the index: each instance that is indexed winds it up in its own transaction, so no
timer can be lost or fire for a study that has just got another instance.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from bucky.broker.connection import Publisher
from bucky.index import Declaration, Index
from bucky.index.rows import Arrival
from bucky.log import get_logger
from keeper.completeness import Seen, judge, quiet_times, still_waited_for
from keeper.evidence import Evidence

AT_ONCE = 500

log = get_logger("keeper")


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did: how many were declared and published, how many wait, and what for."""

    declared: int = 0
    published: int = 0
    waiting: int = 0
    in_the_way: str = ""


class StudySweep:
    """Sweeps when told to; `quiet` and `hold` in seconds. Several may sweep one index: each is declared once."""

    def __init__(self, index: Index, publisher: Publisher, evidence: Evidence, *, quiet: float, hold: float) -> None:
        self._index, self._publisher, self._evidence = index, publisher, evidence
        self._quiet, self._hold = quiet, hold

    async def run(self) -> Swept:
        """Look at everything that got nothing for the shortest quiet time."""
        seen = await self._evidence.seen()
        declared, waiting = await asyncio.to_thread(self._declare, seen)
        published = 0
        while events := await asyncio.to_thread(self._index.unpublished_declarations, limit=AT_ONCE):
            for event in events:
                await self._publisher.publish(event)
            await asyncio.to_thread(self._index.declarations_published, events)
            published += len(events)
        return Swept(declared, published, waiting, seen.in_the_way)

    def _declare(self, seen: Seen) -> tuple[int, int]:
        quiets = quiet_times(self._index.routing().document, self._quiet)
        declared = waiting = 0
        after: Arrival | None = None
        since = seen.now - timedelta(seconds=quiets[0])
        while page := self._index.still_arriving(since, after=after, limit=AT_ONCE):
            after = page[-1]
            for arrival in page:
                number = self._declare_one(arrival, quiets, seen)
                declared += number
                waiting += number == 0
        return declared, waiting

    def _declare_one(self, arrival: Arrival, quiets: Sequence[float], seen: Seen) -> int:
        """Declare it for each quiet time that has passed, the shortest first; return for how many."""
        left = still_waited_for(arrival, quiets)
        if not left:
            self._index.close_arrival(arrival)
            return 0
        declared = 0
        for quiet in left:
            verdict = judge(arrival, quiet, seen, self._hold)
            if not verdict.stable:
                break
            is_longest = quiet == quiets[-1]
            declaration = Declaration(arrival, quiet, verdict.reason, is_longest, is_default=quiet == self._quiet)
            if not self._index.declare_stable(declaration):
                break
            arrival = replace(arrival, quiet_seconds=quiet)
            declared += 1
            log.info(
                "study.stable" if not arrival.series_instance_uid else "series.stable",
                study_instance_uid=arrival.study_instance_uid,
                series_instance_uid=arrival.series_instance_uid or None,
                quiet_seconds=quiet,
                instances=arrival.instance_count,
                reason=verdict.reason,
            )
        return declared
