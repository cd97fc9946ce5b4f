"""Several processes share one account of the spool: whichever dies, and whenever, the account stays true."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_scp.spool.capacity import Capacity, SharedCounters, SpoolFull, SpoolLimits
from edge_scp.spool.entries import Spool
from edge_scp.spool.notifications import Ended, Notifications, Notifier, notify_end, open_pipe
from tests.support.edge.spool_world import DATA, SLOT, SpoolWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SpoolWorld]:
    """A spool."""
    world = SpoolWorld(tmp_path)
    yield world
    world.close()


def held(world: SpoolWorld) -> tuple[int, int]:
    """Return how many instances and bytes the counters says are in the spool."""
    return world.counters.instances, world.counters.held_bytes


def on_disk(world: SpoolWorld) -> tuple[int, int]:
    """Return how many files and bytes are in the folder."""
    sizes = [path.stat().st_size for path in world.folder.ready.iterdir()]
    return len(sizes), sum(sizes)


def keep_unannounced(world: SpoolWorld) -> None:
    """Keep an instance whose receiver dies before it can tell anybody."""
    file = world.begin()
    file.write(memoryview(DATA))
    world.seal(file)
    file.close()


def test_both_sides_of_a_page_see_the_same() -> None:
    """A page opened by its descriptor, as in another process, shows what was written on it."""
    counters, descriptor = SharedCounters.create()
    other = SharedCounters(descriptor)
    limits = SpoolLimits(counters, max_bytes=9999, min_free_bytes=0, resume_fraction=1, free_bytes=lambda: 9999)
    Capacity(counters, 5, limits).take(1000)
    Capacity(other, 6, limits).take(500)
    other.refusing = True
    assert counters.held_bytes == other.held_bytes == 1500
    assert counters.refusing
    os.close(descriptor)


def test_what_waits_in_the_pipe_counts(world: SpoolWorld) -> None:
    """Instances that were acknowledged, and that the uploader has not heard of, are in the account already."""
    world.uploader_hangs = True
    world.keep()
    world.keep()
    assert held(world) == on_disk(world)
    assert world.spool.take() is None
    world.spool.arrived(world.arrivals.read())
    assert held(world) == on_disk(world)
    assert world.spool.take() is not None


def test_a_receiver_killed_anywhere_leaves_a_true_account(world: SpoolWorld) -> None:
    """A dead receiver's half instances cost no room, and what it kept is found although it told nobody."""
    world.keep()
    half = world.begin()
    half.write(memoryview(DATA))
    keep_unannounced(world)
    assert held(world)[1] > on_disk(world)[1]
    assert not world.counters.settled(SLOT)
    assert notify_end(world.writing, SLOT)
    world.spool.arrived(world.arrivals.read())
    assert held(world) == on_disk(world)
    assert world.counters.instances == 2
    assert world.counters.settled(SLOT)
    half.close()


def test_the_next_receiver_in_a_slot_starts_even(world: SpoolWorld) -> None:
    """A worker id used again by another receiver adds to the account and loses nothing of it."""
    keep_unannounced(world)
    notify_end(world.writing, SLOT)
    world.spool.arrived(world.arrivals.read())
    world.counters.begin(SLOT)
    assert held(world) == on_disk(world)
    world.keep()
    world.keep()
    assert held(world) == on_disk(world)
    assert world.counters.instances == 3


def test_an_uploader_started_again_counts_nothing_twice(world: SpoolWorld) -> None:
    """A new uploader finds files in the folder that are announced in the pipe too: they count once."""
    world.keep()
    world.uploader_hangs = True
    world.keep()
    world.keep()
    again = Spool(world.folder, world.counters)
    again.open()
    assert held(world) == on_disk(world)
    again.arrived(world.arrivals.read())
    assert held(world) == on_disk(world)
    assert [again.take() is not None for _ in range(4)] == [True, True, True, False]


def test_a_full_pipe_delays_nobody_and_loses_nothing(world: SpoolWorld) -> None:
    """While the uploader hangs, receivers go on; afterwards it finds in the folder what it was not told."""
    fcntl.fcntl(world.writing, fcntl.F_SETPIPE_SZ, 4096)
    world.uploader_hangs = True
    for _ in range(80):
        world.keep()
    assert world.counters.missed > 0
    assert held(world) == on_disk(world)
    world.spool.arrived(world.arrivals.read())
    assert held(world) == on_disk(world)
    taken = [entry.name for entry in iter(world.spool.take, None)]
    assert sorted(taken) == world.ready()


def test_lines_are_read_whole_however_they_come() -> None:
    """An announcement cut by the end of a read is put together with what comes next."""
    reading, writing = open_pipe()
    counters = SharedCounters()
    Notifier(writing, counters, 1).kept([("a.dcm", 10), ("b.dcm", 20)])
    line = os.read(reading, 1000)
    arrivals = Notifications(reading)
    found = []
    for at in range(len(line)):
        os.write(writing, line[at : at + 1])
        found += list(arrivals.read())
    notify_end(writing, 1)
    found += list(arrivals.read())
    assert [getattr(each, "name", None) for each in found] == ["a.dcm", "b.dcm", None]
    assert found[-1] == Ended(1)
    os.close(reading)
    os.close(writing)


def test_processes_together_stay_within_the_limit(tmp_path: Path) -> None:
    """Receivers that look at the others' words now and then exceed the limit by no more than their allowances."""
    world = SpoolWorld(tmp_path, max_bytes=1_000_000)
    accounts = [Capacity(world.counters, worker_id, world.limits) for worker_id in range(4)]
    full = 0
    while full < len(accounts):
        full = 0
        for account in accounts:
            try:
                account.take(1000)
            except SpoolFull:
                full += 1
    assert 900_000 < world.counters.held_bytes <= 1_000_000 + 4 * 1_000_000 // 64
    world.close()
