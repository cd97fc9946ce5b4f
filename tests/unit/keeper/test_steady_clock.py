"""How long ago something was, by a clock that may be set."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from keeper.steady_clock import SteadyClock

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, YEAR = 3600.0, timedelta(days=365)


@dataclass
class Clocks:
    """A clock on the wall, and one that only time moves."""

    set_by: timedelta = timedelta()
    passed: float = 0.0

    def steady(self) -> SteadyClock:
        """Return a steady clock over these."""
        return SteadyClock(self.wall, lambda: self.passed)

    def wall(self) -> datetime:
        """Return what the clock on the wall shows."""
        return START + self.set_by + timedelta(seconds=self.passed)


@pytest.mark.parametrize("jump", [YEAR, -YEAR, timedelta(hours=2), timedelta(hours=-2)], ids=str)
def test_a_jump_makes_nothing_older(jump: timedelta) -> None:
    """What waited for an hour before the clock was set, and half an hour after, is an hour and a half old."""
    clocks = Clocks()
    steady = clocks.steady()
    clocks.passed += HOUR
    steady.look()
    clocks.set_by += jump
    steady.look()
    clocks.passed += HOUR / 2
    assert not steady.ago(1.6 * HOUR) > START
    if jump > timedelta():
        assert steady.passed(START) == pytest.approx(1.5 * HOUR)
        assert steady.ago(1.4 * HOUR) > START


def test_what_came_after_a_jump_is_as_old_as_the_clock_says() -> None:
    """A jump is over once everything that is asked about came after it."""
    clocks = Clocks()
    steady = clocks.steady()
    clocks.set_by += YEAR
    after = clocks.wall()
    steady.look()
    clocks.passed += 2 * HOUR
    assert steady.passed(after) == pytest.approx(2 * HOUR)
    assert steady.ago(HOUR) == clocks.wall() - timedelta(hours=1)


def test_a_clock_that_is_slewed_is_believed() -> None:
    """Small corrections, as NTP makes them, are no jumps."""
    clocks = Clocks()
    steady = clocks.steady()
    for _ in range(60):
        clocks.passed += 60
        clocks.set_by += timedelta(seconds=0.5)
        steady.look()
    assert steady.ago(HOUR) == clocks.wall() - timedelta(hours=1)


def test_several_jumps_are_each_taken_out() -> None:
    """A machine that sleeps every night is no older in the morning."""
    clocks = Clocks()
    steady = clocks.steady()
    for _ in range(5):
        clocks.passed += HOUR
        steady.look()
        clocks.set_by += timedelta(hours=9)
        steady.look()
    assert steady.passed(START) == pytest.approx(5 * HOUR)
    assert steady.ago(5.1 * HOUR) < START < steady.ago(4.9 * HOUR)
