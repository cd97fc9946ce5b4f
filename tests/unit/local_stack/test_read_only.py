"""When the supervisor starts a broker again that refuses writes."""

from dataclasses import dataclass
from itertools import pairwise

from local_stack.read_only import (
    ENOUGH_FREE_BYTES,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    PATIENCE_SECONDS,
    ReadOnlyWatch,
)

SAID = "JetStream stream '$G > INSTANCES' write error: no space left on device"


@dataclass
class Broker:
    """A broker as the watch sees it, and the time."""

    said: str = SAID
    free: int = ENOUGH_FREE_BYTES
    now: float = 1000.0

    def watch(self) -> ReadOnlyWatch:
        """Return a watch of it."""
        return ReadOnlyWatch(lambda: self.said, lambda: self.free, lambda: self.now)

    def due_within(self, watch: ReadOnlyWatch, seconds: float) -> bool:
        """Look every second for so long; say whether it was to be started again."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            if watch.is_due():
                return True
        return False


def test_it_is_started_again_once_there_is_room() -> None:
    """While the disk is full, a restart would help nothing; once it has room, nothing else helps."""
    broker = Broker(free=ENOUGH_FREE_BYTES - 1)
    watch = broker.watch()
    assert not broker.due_within(watch, 3600)
    broker.free += 1
    assert broker.due_within(watch, PATIENCE_SECONDS + 2)


def test_a_moment_of_trouble_is_no_reason() -> None:
    """What is over by itself needs nobody, and a broker that is well is left alone."""
    broker = Broker()
    watch = broker.watch()
    assert not broker.due_within(watch, PATIENCE_SECONDS - 1)
    broker.said = ""
    assert not broker.due_within(watch, 60)
    broker.said = SAID
    assert not broker.due_within(watch, PATIENCE_SECONDS - 1)


def test_a_restart_that_does_not_help_is_not_repeated_for_ever() -> None:
    """The pauses between restarts grow: a broker that never runs longer than a moment serves nobody."""
    broker = Broker()
    watch = broker.watch()
    times = []
    for _ in range(9):
        assert broker.due_within(watch, LONGEST_PAUSE_SECONDS + PATIENCE_SECONDS + 2)
        times.append(broker.now)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] >= FIRST_PAUSE_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] >= LONGEST_PAUSE_SECONDS
