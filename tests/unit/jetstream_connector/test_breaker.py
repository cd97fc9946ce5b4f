"""The breaker, the gate and the pace, on a clock of the test's own."""

from datetime import UTC, datetime

from jetstream_connector import pause as gates
from jetstream_connector.adaptive_limit import LONGEST_ASKED_SECONDS, LONGEST_PAUSE_SECONDS, Pace
from jetstream_connector.breaker import LONGEST_WAIT_SECONDS, Breaker, State
from jetstream_connector.pause import Gate, Hold


def test_the_breaker_opens_lets_one_try_and_closes_on_an_answer() -> None:
    """Protects a function that is down from being called, and its events from waiting once it is back."""
    breaker = Breaker()
    assert (breaker.state(0), breaker.wait(0)) == (State.CLOSED, 0)
    breaker.down(called_at=10, now=10)
    assert (breaker.state(10.25), breaker.wait(10.25)) == (State.OPEN, 0.25)
    assert (breaker.state(10.6), breaker.wait(10.6)) == (State.HALF_OPEN, 0)
    breaker.answered()
    assert (breaker.state(10.6), breaker.wait(10.6)) == (State.CLOSED, 0)


def test_each_failed_try_doubles_the_wait_up_to_a_limit() -> None:
    """Protects a gateway that is down for hours from being hammered, and from being forgotten."""
    breaker, now, waits = Breaker(), 0.0, []
    for _ in range(10):
        breaker.down(called_at=now, now=now)
        waits.append(breaker.wait(now))
        now += waits[-1]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == LONGEST_WAIT_SECONDS
    breaker.answered()
    breaker.down(called_at=now, now=now)
    assert breaker.wait(now) == 0.5


def test_calls_from_before_the_opening_do_not_lengthen_the_wait() -> None:
    """Protects a quick recovery: ten calls lost in one restart are one failure."""
    breaker = Breaker()
    for _ in range(10):
        breaker.down(called_at=1.0, now=2.0)
    assert breaker.wait(2.0) == 0.5


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
    assert (gate.state(0), gate.reason) == (State.CLOSED, None)
    before = datetime.now(UTC)
    gate.shut(Hold("closed until ten", 36_000), called_at=0, now=1)
    assert (gate.wait(1), gate.reason) == (gates.LONGEST_WAIT_SECONDS, "closed until ten")
    assert gate.until is not None
    assert 35_990 < (gate.until - before).total_seconds() < 36_010
    assert gate.state(61.5) is State.HALF_OPEN
    gate.shut(Hold("closed until ten", 5), called_at=62, now=62)
    assert gate.wait(62) == 5
    gate.open()
    assert (gate.state(62), gate.wait(62)) == (State.CLOSED, 0)
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
    assert waits[-1] == LONGEST_WAIT_SECONDS
