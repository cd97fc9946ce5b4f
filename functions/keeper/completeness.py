"""When a study or series counts as complete: pure decisions from how long it was quiet, and on what evidence.

Nobody tells a receiver that a study is complete. What can be known is that nothing came for a while. That is
measured up to the moment until which everything received is known to be in the index, not up to now: while
the store or the functions are away, a study only looks quiet. Waiting for that, and for instances a sender
announced, ends after the hold time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucky.index.rows import Arrival
from bucky.routing.document import Routing


@dataclass(frozen=True, slots=True)
class Seen:
    """Until when all that was received is known to be indexed, and what stands in the way of later; `now` is now."""

    now: datetime
    indexed_until: datetime
    in_the_way: str = ""


@dataclass(frozen=True, slots=True)
class Completeness:
    """Whether it is stable for a quiet time; `reason` says why, for people and for the record."""

    stable: bool
    reason: str


def quiet_times(routing: Routing, default: float) -> tuple[float, ...]:
    """Return the quiet times that somebody waits for, in seconds, the shortest first."""
    of_rules = {rule.quiet_seconds for rule in routing.rules if rule.enabled and rule.quiet_seconds is not None}
    return tuple(sorted({default, *of_rules}))


def still_waited_for(arrival: Arrival, quiets: Iterable[float]) -> list[float]:
    """Return the quiet times that it was not yet declared stable for."""
    return [quiet for quiet in quiets if quiet > arrival.quiet_seconds]


def judge(arrival: Arrival, quiet: float, seen: Seen, hold: float) -> Completeness:
    """Return whether it is stable for a quiet time, in seconds, or has been held for long enough."""
    missing = _missing(arrival)
    idle = (seen.indexed_until - arrival.last_instance_at).total_seconds()
    if idle >= quiet and not missing:
        return Completeness(stable=True, reason=f"quiet for {quiet:g} s{_evidence(arrival)}")
    in_the_way = "; ".join(filter(None, (seen.in_the_way if idle < quiet else "", missing)))
    if seen.now - arrival.last_instance_at >= timedelta(seconds=quiet + hold):
        return Completeness(stable=True, reason=f"quiet for {quiet:g} s, then held for {hold:g} s: {in_the_way}")
    return Completeness(stable=False, reason=in_the_way or "not quiet for long enough")


def _missing(arrival: Arrival) -> str:
    expected = arrival.expected_count
    if expected is None or expected <= arrival.instance_count:
        return ""
    return f"{arrival.instance_count} of {expected} announced instances came"


def _evidence(arrival: Arrival) -> str:
    told = f", all {arrival.expected_count} announced instances came" if (arrival.expected_count or 0) > 0 else ""
    return f"{told}; nothing waits to be indexed"
