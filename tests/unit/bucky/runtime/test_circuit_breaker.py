"""The circuit breaker and its back-off, on a clock of the test's own."""

from bucky.runtime.backoff import Backoff
from bucky.runtime.circuit_breaker import CircuitBreaker, CircuitState


def test_the_breaker_opens_lets_one_try_and_closes_on_an_answer() -> None:
    """Protects a function that is down from being called, and its events from waiting once it is back."""
    breaker = CircuitBreaker(Backoff(0.5, 30.0))
    assert (breaker.state(0), breaker.wait(0)) == (CircuitState.CLOSED, 0)
    breaker.down(called_at=10, now=10)
    assert (breaker.state(10.25), breaker.wait(10.25)) == (CircuitState.OPEN, 0.25)
    assert (breaker.state(10.6), breaker.wait(10.6)) == (CircuitState.HALF_OPEN, 0)
    breaker.answered()
    assert (breaker.state(10.6), breaker.wait(10.6)) == (CircuitState.CLOSED, 0)


def test_each_failed_try_doubles_the_wait_up_to_a_limit() -> None:
    """Protects a gateway that is down for hours from being hammered, and from being forgotten."""
    breaker, now, waits = CircuitBreaker(Backoff(0.5, 30.0)), 0.0, []
    for _ in range(10):
        breaker.down(called_at=now, now=now)
        waits.append(breaker.wait(now))
        now += waits[-1]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 30.0
    breaker.answered()
    breaker.down(called_at=now, now=now)
    assert breaker.wait(now) == 0.5


def test_calls_from_before_the_opening_do_not_lengthen_the_wait() -> None:
    """Protects a quick recovery: ten calls lost in one restart are one failure."""
    breaker = CircuitBreaker(Backoff(0.5, 30.0))
    for _ in range(10):
        breaker.down(called_at=1.0, now=2.0)
    assert breaker.wait(2.0) == 0.5


def test_with_jitter_the_wait_is_between_half_and_all_of_it() -> None:
    """Protects a server that comes back from all its clients at the same moment, and the wait from being none."""
    backoff = Backoff(1.0, 8.0, jitter=True)
    for longest in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert longest / 2 <= backoff.next() <= longest
