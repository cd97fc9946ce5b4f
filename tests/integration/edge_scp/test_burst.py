"""Many connections at once: more than a receiver, or the edge's parent, takes at a time."""

import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.dimse.raw_peer import RawPeer, request
from tests.support.edge.edge_process import EdgeProcess, edge_process, standing_still
from tests.support.waiting import eventually

MOST = 1480
LIMITS: dict[str, Any] = {
    "edge_max_associations": MOST,
    "edge_max_associations_per_peer": MOST,
    "edge_artim_seconds": 60,
}
REFUSED = "bucky_edge_connections_refused_total{"


@contextmanager
def descriptors(most: int) -> Iterator[None]:
    """Let this process, and what it starts, have so many descriptors for the length of a block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[EdgeProcess]:
    """An edge of one receiver, started with as many descriptors as a login shell has."""
    with descriptors(1024), edge_process(tmp_path, edge_processes=1, **LIMITS) as running, descriptors(4096):
        yield running


def connected(edge: EdgeProcess, stack: ExitStack, many: int) -> list[RawPeer]:
    """Return so many connections that say nothing yet, after the parent accepted them."""
    peers = [stack.enter_context(RawPeer(edge.port)) for _ in range(many)]
    edge.until_serving(min(many, MOST), seconds=10)
    return peers


def receiver(edge: EdgeProcess) -> int:
    """Return the receiver's process id."""
    return int(edge.children()["receiver-0"]["pid"])


def refused(edge: EdgeProcess) -> bool:
    """Tell whether the parent closed a connection that it had accepted."""
    return REFUSED in edge.metrics()


def test_a_burst_is_served_up_to_the_limits(edge: EdgeProcess) -> None:
    """Connections that a receiver cannot take yet wait for it: all are accepted or told why not, none is dropped."""
    with ExitStack() as stack:
        with standing_still(receiver(edge)):
            peers = connected(edge, stack, 1500)
        for peer in peers:
            peer.send(request())
        answers = Counter(peer.receive()[:1] for peer in peers)
    assert answers == {b"\x02": MOST, b"\x03": 1500 - MOST}
    assert not refused(edge)
    edge.until_serving(0, seconds=10)


def test_a_receiver_killed_in_a_burst_gives_every_place_back(edge: EdgeProcess) -> None:
    """What waited for a killed receiver is closed, not left hanging, and its successor serves the next."""
    victim = receiver(edge)
    with ExitStack() as stack:
        with standing_still(victim):
            peers = connected(edge, stack, 1000)
            os.kill(victim, signal.SIGKILL)
            assert all(peer.closed() for peer in peers)
        edge.until_serving(0, seconds=10)
    eventually(lambda: bool(edge.children()["receiver-0"]["ready"]), "the receiver runs again")
    with RawPeer(edge.port) as peer:
        peer.associate()


def test_places_are_given_back_although_the_parent_was_busy(edge: EdgeProcess) -> None:
    """A receiver whose parent hears nothing for a while tells it later of each connection that ended."""
    assert edge.process is not None
    folder = Path(f"/proc/{receiver(edge)}/fd")
    before = len(list(folder.iterdir()))
    with ExitStack() as stack:
        connected(edge, stack, 1000)
        eventually(lambda: len(list(folder.iterdir())) == before + 1000, "the receiver has every connection")
        with standing_still(edge.process.pid):
            stack.close()
            eventually(lambda: len(list(folder.iterdir())) == before, "the receiver closed every connection")
    edge.until_serving(0, seconds=10)
