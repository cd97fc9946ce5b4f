"""The pause and the adaptive limit, on a clock of the test's own."""

from datetime import UTC, datetime

from bucky.runtime.circuit_breaker import CircuitState
from jetstream_connector import pause as pauses
from jetstream_connector.adaptive_limit import LONGEST_ASKED_SECONDS, LONGEST_PAUSE_SECONDS, AdaptiveLimit
from jetstream_connector.pause import Pause, PauseRequest


def test_the_pace_halves_when_busy_and_grows_back_to_what_is_allowed() -> None:
    """Protects an overloaded function, and the throughput once it is not."""
    limit = AdaptiveLimit(batch_size=50, concurrency=4)
    limit.busy(called_at=0, now=1, retry_after=None)
    assert (limit.batch_size, limit.concurrency, limit.wait(1)) == (25, 2, 0.25)
    for moment in range(2, 20):
        limit.busy(called_at=moment, now=moment, retry_after=None)
    assert (limit.batch_size, limit.concurrency) == (1, 1)
    assert limit.wait(19) == LONGEST_PAUSE_SECONDS
    for _ in range(20):
        limit.answered()
    assert (limit.batch_size, limit.concurrency) == (50, 4)


def test_the_pace_keeps_the_wait_that_was_asked_for() -> None:
    """Protects Retry-After, within bounds."""
    limit = AdaptiveLimit(10, 1)
    limit.busy(0, 1, retry_after=5)
    assert limit.wait(1) == 5
    limit.busy(2, 2, retry_after=120)
    assert limit.wait(2) == 120
    limit.busy(3, 3, retry_after=10_000)
    assert limit.wait(3) == LONGEST_ASKED_SECONDS


def test_calls_under_way_at_the_halving_do_not_halve_again() -> None:
    """Protects the limit from falling to one because several calls were in flight."""
    limit = AdaptiveLimit(40, 4)
    for _ in range(4):
        limit.busy(called_at=0.5, now=1, retry_after=None)
    assert (limit.batch_size, limit.concurrency) == (20, 2)


def test_a_gate_believes_the_wait_it_was_told_and_asks_again_before_it_is_over() -> None:
    """Protects a schedule that is changed while it is closed: its hours are shown, but tried every minute."""
    pause = Pause()
    assert (pause.state(0), pause.reason) == (CircuitState.CLOSED, None)
    before = datetime.now(UTC)
    pause.begin(PauseRequest("closed until ten", 36_000), called_at=0, now=1)
    assert (pause.wait(1), pause.reason) == (pauses.LONGEST_WAIT_SECONDS, "closed until ten")
    assert pause.until is not None
    assert 35_990 < (pause.until - before).total_seconds() < 36_010
    assert pause.state(61.5) is CircuitState.HALF_OPEN
    pause.begin(PauseRequest("closed until ten", 5), called_at=62, now=62)
    assert pause.wait(62) == 5
    pause.end()
    assert (pause.state(62), pause.wait(62)) == (CircuitState.CLOSED, 0)
    assert pause.reason is None
    assert pause.until is None


def test_a_gate_that_was_told_no_time_tries_with_waits_that_double() -> None:
    """Protects a destination that is down for a day from being called all the time, and from being forgotten."""
    pause, now, waits = Pause(), 0.0, []
    for _ in range(8):
        pause.begin(PauseRequest("away"), called_at=now, now=now)
        waits.append(pause.wait(now))
        now += waits[-1]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 30.0
