"""The pause and the adaptive limit, on a clock of the test's own."""

from datetime import UTC, datetime

from bucky.runtime.circuit_breaker import CircuitState
from jetstream_connector import pause as gates
from jetstream_connector.adaptive_limit import LONGEST_ASKED_SECONDS, LONGEST_PAUSE_SECONDS, Pace
from jetstream_connector.pause import Gate, Hold


def test_the_pace_halves_when_busy_and_grows_back_to_what_is_allowed() -> None:
    """Protects an overloaded function, and the throughput once it is not."""
    pace = Pace(batch_size=50, concurrency=4)
    pace.busy(called_at=0, now=1, retry_after=None)
    assert (pace.batch_size, pace.concurrency, pace.wait(1)) == (25, 2, 0.25)
    for moment in range(2, 20):
        pace.busy(called_at=moment, now=moment, retry_after=None)
    assert (pace.batch_size, pace.concurrency) == (1, 1)
    assert pace.wait(19) == LONGEST_PAUSE_SECONDS
    for _ in range(20):
        pace.answered()
    assert (pace.batch_size, pace.concurrency) == (50, 4)


def test_the_pace_keeps_the_wait_that_was_asked_for() -> None:
    """Protects Retry-After, within bounds."""
    pace = Pace(10, 1)
    pace.busy(0, 1, retry_after=5)
    assert pace.wait(1) == 5
    pace.busy(2, 2, retry_after=120)
    assert pace.wait(2) == 120
    pace.busy(3, 3, retry_after=10_000)
    assert pace.wait(3) == LONGEST_ASKED_SECONDS


def test_calls_under_way_at_the_halving_do_not_halve_again() -> None:
    """Protects the pace from falling to one because several calls were in flight."""
    pace = Pace(40, 4)
    for _ in range(4):
        pace.busy(called_at=0.5, now=1, retry_after=None)
    assert (pace.batch_size, pace.concurrency) == (20, 2)


def test_a_gate_believes_the_wait_it_was_told_and_asks_again_before_it_is_over() -> None:
    """Protects a schedule that is changed while it is closed: its hours are shown, but tried every minute."""
    gate = Gate()
    assert (gate.state(0), gate.reason) == (CircuitState.CLOSED, None)
    before = datetime.now(UTC)
    gate.shut(Hold("closed until ten", 36_000), called_at=0, now=1)
    assert (gate.wait(1), gate.reason) == (gates.LONGEST_WAIT_SECONDS, "closed until ten")
    assert gate.until is not None
    assert 35_990 < (gate.until - before).total_seconds() < 36_010
    assert gate.state(61.5) is CircuitState.HALF_OPEN
    gate.shut(Hold("closed until ten", 5), called_at=62, now=62)
    assert gate.wait(62) == 5
    gate.open()
    assert (gate.state(62), gate.wait(62)) == (CircuitState.CLOSED, 0)
    assert gate.reason is None
    assert gate.until is None


def test_a_gate_that_was_told_no_time_tries_with_waits_that_double() -> None:
    """Protects a destination that is down for a day from being called all the time, and from being forgotten."""
    gate, now, waits = Gate(), 0.0, []
    for _ in range(8):
        gate.shut(Hold("away"), called_at=now, now=now)
        waits.append(gate.wait(now))
        now += waits[-1]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 30.0
