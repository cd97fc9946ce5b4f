"""How long a peer may take, by a clock the test sets."""

from edge_scp.association.limits import AssociationLimits
from edge_scp.association.timeouts import Patience


class Clock:
    """The loop's time."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def patience() -> tuple[Patience, Clock]:
    """Return a patience of sixty seconds and 100 bytes a second, and its clock."""
    clock = Clock()
    return Patience(AssociationLimits(idle_seconds=60, min_bytes_per_second=100), clock), clock


def test_the_time_between_messages_begins_with_the_last_message() -> None:
    """Only a message that ended renews the idle time, not a byte of the next one."""
    waiting, clock = patience()
    assert waiting.lost_between_messages(160.0) is None
    assert waiting.lost_between_messages(160.1) is not None
    clock.now = 150.0
    waiting.message_ended()
    assert waiting.lost_between_messages(210.0) is None


def test_a_data_set_may_take_as_long_as_it_keeps_coming() -> None:
    """At the least rate a data set is never too slow, though it takes an hour."""
    waiting, clock = patience()
    waiting.data_set_begins()
    for half_minute in range(1, 121):
        clock.now += 30
        assert waiting.lost_within_data_set(clock.now, 3000 * half_minute) is None


def test_a_data_set_that_drips_is_too_slow() -> None:
    """A byte a second renews nothing, however much came before."""
    waiting, clock = patience()
    waiting.data_set_begins()
    before = 1_000_000
    assert waiting.lost_within_data_set(clock.now + 30, before) is None
    for second in range(31, 60):
        assert waiting.lost_within_data_set(clock.now + second, before + second - 30) is None
    assert waiting.lost_within_data_set(clock.now + 60, before + 30) is not None


def test_a_data_set_that_stops_is_too_slow_even_without_a_least_rate() -> None:
    """With no least rate set, not a byte for the time is still too little."""
    clock = Clock()
    waiting = Patience(AssociationLimits(idle_seconds=60, min_bytes_per_second=0), clock)
    waiting.data_set_begins()
    assert waiting.lost_within_data_set(130.0, 1) is None
    assert waiting.lost_within_data_set(160.0, 1) is not None
